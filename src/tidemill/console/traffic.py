"""The data plane's request rate, latency and errors, computed from its Prometheus metrics.

Counters are read every other second at most, while a console is open. Figures are differences over
the last minute; the newest ninety readings make the sparklines.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families

K = TypeVar("K")
MAX_READINGS = 90
WINDOW_SECONDS = 60.0
TIMEOUT_SECONDS = 2.0
REQUESTS, DURATIONS = "http_requests_total", "http_request_duration_seconds_bucket"
ROWS = "model_predictions_total"
PREDICTION_ROUTES = ("/predict", "/predict_batch", "/infer", "/invocations")


@dataclass(frozen=True)
class CounterReading:
    """The counters at one time: requests by status, durations by upper bound, rows by model."""

    at: float
    codes: Mapping[str, float]
    buckets: Mapping[float, float]
    rows: Mapping[str, float]


@dataclass(frozen=True)
class TrafficFigures:
    """The data plane's traffic. Rates per second, latency in seconds; None if not known yet.

    Attributes:
        errors: The share of 5xx responses; `refused`, of 4xx responses.
        rows: Predictions per second by model.
        curve: Requests per second between readings, oldest first.
        seconds: The length of the period.
    """

    rate: float | None = None
    p50: float | None = None
    p99: float | None = None
    errors: float | None = None
    refused: float | None = None
    rows: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[float, ...] = ()
    seconds: float = 0.0


class Traffic:
    """The readings of one data plane.

    Args:
        fetch: Returns the text of the metrics at a base URL.
    """

    def __init__(self, fetch: Callable[[str], str] | None = None) -> None:
        self._fetch = fetch or _fetch_metrics
        self._readings: deque[CounterReading] = deque(maxlen=MAX_READINGS)
        self._lock = threading.Lock()

    def read(self, url: str) -> TrafficFigures:
        """Read the counters of the data plane at a URL, and compute the figures.

        Raises:
            httpx.HTTPError: The data plane does not answer.
        """
        reading = parse_metrics(self._fetch(url), time.monotonic())
        with self._lock:
            if self._readings and _was_reset(self._readings[-1], reading):
                self._readings.clear()  # the server was restarted
            self._readings.append(reading)
            return figures(list(self._readings))


def parse_metrics(text: str, at: float) -> CounterReading:
    """The counters in a text in Prometheus' format."""
    codes: dict[str, float] = {}
    buckets: dict[float, float] = {}
    rows: dict[str, float] = {}
    names = (REQUESTS, DURATIONS, ROWS)
    lines = "\n".join(line for line in text.splitlines() if line.startswith(names))
    for family in text_string_to_metric_families(lines + "\n"):
        for sample in family.samples:
            labels, value = sample.labels, float(sample.value)
            if sample.name == ROWS:
                rows[labels["model"]] = rows.get(labels["model"], 0.0) + value
            elif not labels.get("route", "").endswith(PREDICTION_ROUTES):
                continue
            elif sample.name == REQUESTS:
                codes[labels["code"]] = codes.get(labels["code"], 0.0) + value
            else:
                bound = float(labels["le"])
                buckets[bound] = buckets.get(bound, 0.0) + value
    return CounterReading(at, codes, buckets, rows)


def figures(readings: list[CounterReading]) -> TrafficFigures:
    """The differences between the first reading of the last minute and the last."""
    last = readings[-1]
    first = next(r for r in readings if last.at - r.at <= WINDOW_SECONDS)
    seconds = last.at - first.at
    if seconds <= 0:
        return TrafficFigures()
    codes = _increase(last.codes, first.codes)
    total = sum(codes.values())
    buckets = _increase(last.buckets, first.buckets)
    return TrafficFigures(
        rate=total / seconds,
        p50=quantile(buckets, 0.5),
        p99=quantile(buckets, 0.99),
        errors=_share(codes, "5", total),
        refused=_share(codes, "4", total),
        rows={m: n / seconds for m, n in _increase(last.rows, first.rows).items()},
        curve=tuple(map(_rate, readings, readings[1:])),
        seconds=seconds,
    )


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """A quantile of cumulative buckets, interpolated linearly; None if they are empty.

    Values beyond the last finite bound count as that bound, as in PromQL's histogram_quantile.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if total <= 0:
        return None
    low, below = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= share * total:
            inside = buckets[bound] - below
            if bound == float("inf"):
                return low
            return low + (bound - low) * ((share * total - below) / inside if inside else 1.0)
        low, below = bound, buckets[bound]
    return low


def _increase(last: Mapping[K, float], first: Mapping[K, float]) -> dict[K, float]:
    return {key: max(0.0, value - first.get(key, 0.0)) for key, value in last.items()}


def _rate(before: CounterReading, after: CounterReading) -> float:
    requests = sum(after.codes.values()) - sum(before.codes.values())
    return max(0.0, requests / max(after.at - before.at, 1e-9))


def _share(codes: Mapping[str, float], first: str, total: float) -> float:
    return sum(n for code, n in codes.items() if code.startswith(first)) / total if total else 0.0


def _was_reset(before: CounterReading, after: CounterReading) -> bool:
    return any(after.rows.get(model, 0.0) < n for model, n in before.rows.items())


def _fetch_metrics(url: str) -> str:
    return httpx.get(f"{url}/metrics", timeout=TIMEOUT_SECONDS).raise_for_status().text

"""Requests a second and how long they take, out of the data plane's own metrics.

The counters are read while somebody looks, every other second at most; figures are differences over
the last minute. The newest ninety readings are kept, which is what the little curves show.
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
KEPT = 90
WINDOW_SECONDS = 60.0
ANSWER_SECONDS = 2.0
REQUESTS, DURATIONS = "http_requests_total", "http_request_duration_seconds_bucket"
ROWS = "model_predictions_total"
PREDICTING = ("/predict", "/predict_batch", "/infer", "/invocations")


@dataclass(frozen=True)
class CounterReading:
    """The counters at one moment: requests by status, durations by upper bound, rows by model."""

    at: float
    codes: Mapping[str, float]
    buckets: Mapping[float, float]
    rows: Mapping[str, float]


@dataclass(frozen=True)
class TrafficFigures:
    """What goes through the data plane. Rates a second, times in seconds; None: not known yet.

    Attributes:
        errors: The share of answers that were the server's fault (5xx); `refused`, the client's.
        rows: Predictions a second by model.
        curve: Requests a second between readings, oldest first.
        seconds: What the figures are over.
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
        fetch: Gives the metrics' text for an address.
    """

    def __init__(self, fetch: Callable[[str], str] | None = None) -> None:
        self._fetch = fetch or _fetched
        self._readings: deque[CounterReading] = deque(maxlen=KEPT)
        self._lock = threading.Lock()

    def look(self, url: str) -> TrafficFigures:
        """Read the counters of the data plane at an address.

        Raises:
            httpx.HTTPError: It does not answer.
        """
        reading = read(self._fetch(url), time.monotonic())
        with self._lock:
            if self._readings and _went_back(self._readings[-1], reading):
                self._readings.clear()  # it was started anew
            self._readings.append(reading)
            return figures(list(self._readings))


def read(text: str, at: float) -> CounterReading:
    """The counters in a text of Prometheus' format."""
    codes: dict[str, float] = {}
    buckets: dict[float, float] = {}
    rows: dict[str, float] = {}
    wanted = (REQUESTS, DURATIONS, ROWS)
    lines = "\n".join(line for line in text.splitlines() if line.startswith(wanted))
    for family in text_string_to_metric_families(lines + "\n"):
        for sample in family.samples:
            labels, value = sample.labels, float(sample.value)
            if sample.name == ROWS:
                rows[labels["model"]] = rows.get(labels["model"], 0.0) + value
            elif not labels.get("route", "").endswith(PREDICTING):
                continue
            elif sample.name == REQUESTS:
                codes[labels["code"]] = codes.get(labels["code"], 0.0) + value
            else:
                bound = float(labels["le"])
                buckets[bound] = buckets.get(bound, 0.0) + value
    return CounterReading(at, codes, buckets, rows)


def figures(readings: list[CounterReading]) -> TrafficFigures:
    """What happened between the first reading of the window and the last."""
    last = readings[-1]
    first = next(r for r in readings if last.at - r.at <= WINDOW_SECONDS)
    seconds = last.at - first.at
    if seconds <= 0:
        return TrafficFigures()
    codes = _gained(last.codes, first.codes)
    total = sum(codes.values())
    buckets = _gained(last.buckets, first.buckets)
    return TrafficFigures(
        rate=total / seconds,
        p50=quantile(buckets, 0.5),
        p99=quantile(buckets, 0.99),
        errors=_share(codes, "5", total),
        refused=_share(codes, "4", total),
        rows={m: n / seconds for m, n in _gained(last.rows, first.rows).items()},
        curve=tuple(map(_rate, readings, readings[1:])),
        seconds=seconds,
    )


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """A quantile out of cumulative buckets, straight within a bucket; None where nothing is in.

    What lies beyond the last finite bound counts as that bound, as in PromQL.
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


def _gained(last: Mapping[K, float], first: Mapping[K, float]) -> dict[K, float]:
    return {key: max(0.0, value - first.get(key, 0.0)) for key, value in last.items()}


def _rate(before: CounterReading, after: CounterReading) -> float:
    gained = sum(after.codes.values()) - sum(before.codes.values())
    return max(0.0, gained / max(after.at - before.at, 1e-9))


def _share(codes: Mapping[str, float], first: str, total: float) -> float:
    return sum(n for code, n in codes.items() if code.startswith(first)) / total if total else 0.0


def _went_back(before: CounterReading, after: CounterReading) -> bool:
    return any(after.rows.get(model, 0.0) < n for model, n in before.rows.items())


def _fetched(url: str) -> str:
    return httpx.get(f"{url}/metrics", timeout=ANSWER_SECONDS).raise_for_status().text

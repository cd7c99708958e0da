"""The data plane's metrics, and their export to Prometheus.

A request touches three or four slots of `tidemill.serving.telemetry.counters`; names, help texts
and the text format are only needed when Prometheus scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from tidemill.serving.telemetry.counters import Series, SharedCounters

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

SECONDS = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0, 4096.0, 16384.0)

#: name -> (help, bounds of a histogram). Lists every metric of the data plane.
METRICS: dict[str, tuple[str, tuple[float, ...]]] = {
    "http_requests_total": ("Answered requests.", ()),
    "http_request_duration_seconds": ("Time from a request's last byte to its response.", SECONDS),
    "model_predictions_total": ("Rows answered, by model and version.", ()),
    "tidemill_inference_seconds": ("Time of one run of a model.", SECONDS),
    "tidemill_batch_rows": ("Rows in one run of a model.", ROWS),
    "tidemill_inference_errors_total": ("Failed runs of a model.", ()),
    "tidemill_model_overruns_total": ("Runs of a model that had to be ended.", ()),
    "tidemill_models_failing": ("Models whose last run did not end in time.", ()),
    "tidemill_rate_limited_total": ("Requests over a rate limit.", ()),
    "tidemill_cache_hits_total": ("Answers from the cache, by tier.", ()),
    "tidemill_cache_misses_total": ("Cache misses.", ()),
    "tidemill_cache_entries": ("Cached answers in memory.", ()),
    "tidemill_cache_errors_total": ("Failed requests to the cache's Redis.", ()),
    "tidemill_journal_records_total": ("Predictions recorded.", ()),
    "tidemill_journal_bytes_total": ("Bytes written to the journal.", ()),
    "tidemill_journal_dropped_total": ("Predictions answered without a record.", ()),
    "tidemill_journal_refused_total": ("Predictions refused because the journal is full.", ()),
    "tidemill_journal_folder_bytes": ("Bytes in the journal's folder.", ()),
    "tidemill_journal_lag_seconds": ("Age of the oldest segment that ingest has not taken.", ()),
    "tidemill_journal_full": ("1 while the journal is full.", ()),
    "tidemill_model_loaded": ("1 for the version of a model that is in service.", ()),
    "tidemill_models": ("Loaded models.", ()),
    "tidemill_model_loads_total": ("Versions put into service.", ()),
    "tidemill_model_refusals_total": ("Versions that could not be put into service.", ()),
    "tidemill_keys_stale": ("Whether the key file cannot be read; the keys stay valid.", ()),
    "tidemill_shelf_problems": ("Models whose intended version is not in service.", ()),
    "tidemill_shelf_synced_timestamp_seconds": ("When the registry was last reached.", ()),
    "tidemill_challenger_share": ("Share of requests that a challenger receives.", ()),
    "tidemill_role_predictions_total": ("Rows that challengers answered, by role.", ()),
    "tidemill_role_seconds": ("Time of one run of a challenger.", SECONDS),
    "tidemill_role_errors_total": ("Requests that a challenger failed on, by role.", ()),
    "tidemill_canary_fallbacks_total": ("Canary requests that the champion answered instead.", ()),
    "tidemill_shadow_dropped_total": ("Requests not copied to a shadow on a busy server.", ()),
    "tidemill_disk_free_bytes": ("Free bytes on the disk of a folder.", ()),
    "tidemill_disk_size_bytes": ("Bytes on the disk of a folder.", ()),
}  # fmt: skip

#: Gauges of something that all processes share, which must not be summed over processes.
SHARED = {
    "tidemill_journal_folder_bytes", "tidemill_journal_lag_seconds", "tidemill_journal_full",
    "tidemill_model_loaded", "tidemill_models", "tidemill_shelf_problems",
    "tidemill_keys_stale", "tidemill_models_failing",
    "tidemill_challenger_share",
    "tidemill_shelf_synced_timestamp_seconds", "tidemill_disk_free_bytes",
    "tidemill_disk_size_bytes",
}  # fmt: skip


class Histogram:
    """A histogram: its sum and its counts by bound, in slots of `SharedCounters`."""

    __slots__ = ("_bounds", "_first", "_sum", "_values")

    def __init__(self, counts: SharedCounters, name: str, labels: dict[str, str]) -> None:
        self._bounds = METRICS[name][1]
        self._values = counts.values
        self._sum = counts.allocate("histogram", name, labels, len(self._bounds) + 2)
        self._first = self._sum + 1

    def observe(self, value: float) -> None:
        values = self._values
        values[self._sum] += value
        values[self._first + bisect_left(self._bounds, value)] += 1.0


class Counter:
    """A counter, or a gauge."""

    __slots__ = ("_slot", "_values")

    def __init__(
        self,
        counts: SharedCounters,
        name: str,
        labels: dict[str, str] | None = None,
        *,
        gauge: bool = False,
    ) -> None:
        self._values = counts.values
        self._slot = counts.allocate("gauge" if gauge else "counter", name, labels or {})

    def add(self, amount: float = 1.0) -> None:
        self._values[self._slot] += amount

    def set(self, value: float) -> None:
        self._values[self._slot] = value


class Metrics:
    """The series of this process by name and labels; created on first use."""

    def __init__(self, counts: SharedCounters) -> None:
        self.counts = counts
        self._counters: dict[tuple[str, ...], Counter] = {}
        self._histograms: dict[tuple[str, ...], Histogram] = {}

    def counter(self, name: str, **labels: str) -> Counter:
        return self._one(name, labels, gauge=False)

    def gauge(self, name: str, **labels: str) -> Counter:
        return self._one(name, labels, gauge=True)

    def histogram(self, name: str, **labels: str) -> Histogram:
        key = (name, *labels.values())
        found = self._histograms.get(key)
        if found is None:
            found = self._histograms[key] = Histogram(self.counts, name, labels)
        return found

    def request(self, method: str, route: str, code: int) -> Histogram:
        """The durations of one kind of request. `http_requests_total` is derived from them, so that
        a request needs one observation."""
        return self.histogram(
            "http_request_duration_seconds", method=method, route=route, code=str(code)
        )

    def scrape(self, registry: CollectorRegistry | None = None) -> bytes:
        """All metrics in Prometheus's text format.

        Args:
            registry: Its metrics are added, except those with a name in `METRICS`: requests to an
                app behind this one are counted here.
        """
        from prometheus_client import CollectorRegistry as Registry
        from prometheus_client import generate_latest

        own = Registry(auto_describe=False)
        own.register(_Collector(self.counts, registry))
        text: bytes = generate_latest(own)
        return text

    def _one(self, name: str, labels: dict[str, str], *, gauge: bool) -> Counter:
        key = (name, *labels.values())
        found = self._counters.get(key)
        if found is None:
            found = self._counters[key] = Counter(self.counts, name, labels, gauge=gauge)
        return found


class _Collector:
    """Collects the sums over all processes, then the metrics of another registry."""

    def __init__(self, counts: SharedCounters, other: CollectorRegistry | None) -> None:
        self._counts = counts
        self._other = other

    def collect(self) -> Iterator[Any]:
        for name, group in _grouped(_summed(self._counts.read())):
            yield _family(name, group)
        for family in self._other.collect() if self._other is not None else ():
            if not {family.name, f"{family.name}_total"} & METRICS.keys():
                yield family


def _family(name: str, group: list[Series]) -> Any:
    """The series of one name as a metric family of prometheus_client."""
    from prometheus_client import core

    help_text, bounds = METRICS[name]
    kinds: dict[str, Any] = {
        "histogram": core.HistogramMetricFamily,
        "counter": core.CounterMetricFamily,
        "gauge": core.GaugeMetricFamily,
    }
    family = kinds[group[0].kind](name, help_text, labels=list(group[0].labels))
    for series in group:
        numbers = (
            _buckets(bounds, series.values) if series.kind == "histogram" else series.values[:1]
        )
        family.add_metric(list(series.labels.values()), *numbers)
    return family


def _summed(found: Iterable[Series]) -> list[Series]:
    """One series per name and labels; request counts are derived from the durations."""
    sums: dict[tuple[str, ...], Series] = {}
    for series in found:
        if series.kind == "gauge" and not series.alive:
            continue
        for each in _derived(series):
            key = (each.name, *each.labels.values())
            old = sums.get(key)
            sums[key] = each if old is None else each._replace(values=_merged(old, each))
    return list(sums.values())


def _merged(old: Series, new: Series) -> list[float]:
    if new.name in SHARED:
        return [max(a, b) for a, b in zip(old.values, new.values, strict=True)]
    return [a + b for a, b in zip(old.values, new.values, strict=True)]


def _derived(series: Series) -> Iterator[Series]:
    if series.name != "http_request_duration_seconds":
        yield series
        return
    count = sum(series.values[1:])
    yield Series("counter", "http_requests_total", series.labels, [count], series.alive)
    labels = {k: v for k, v in series.labels.items() if k != "code"}
    yield series._replace(labels=labels)


def _grouped(found: list[Series]) -> Iterator[tuple[str, list[Series]]]:
    names = [name for name in METRICS if any(s.name == name for s in found)]
    for name in names:
        yield name, [s for s in found if s.name == name]


def _buckets(bounds: tuple[float, ...], values: list[float]) -> tuple[list[Any], float]:
    """Prometheus's cumulative buckets, and the sum."""
    total, cumulative, buckets = values[0], 0.0, []
    for bound, count in zip([*map(str, bounds), "+Inf"], values[1:], strict=True):
        cumulative += count
        buckets.append([bound, cumulative])
    return buckets, total

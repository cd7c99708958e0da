"""Counters of several processes, alive or dead, add up; prediction ids never repeat."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tidemill.serving.journal.prediction_ids import REQUEST_ID, id_source, trace_id
from tidemill.serving.telemetry.counters import SLOTS, SharedCounters, remove_dead_processes
from tidemill.serving.telemetry.metrics import SECONDS, Metrics


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    text = metrics.scrape().decode()
    return {
        (s.name, *s.labels.values()): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_counts_of_all_processes_add_up(tmp_path: Path) -> None:
    shared = [SharedCounters(tmp_path) for _ in range(2)]
    both = [Metrics(counters) for counters in shared]
    for number, metrics in enumerate(both, 1):
        metrics.counter("model_predictions_total", model="m", version="1").add(number)
        metrics.request("POST", "/predict", 200).observe(0.01 * number)
        metrics.gauge("tidemill_cache_entries").set(number)
        metrics.gauge("tidemill_models").set(2)
    for metrics in both:
        found = samples(metrics)
        assert found["model_predictions_total", "m", "1"] == 3
        assert found["http_requests_total", "200", "POST", "/predict"] == 2
        assert found["http_request_duration_seconds_sum", "POST", "/predict"] == 0.03
        assert found["tidemill_cache_entries",] == 3
        assert found["tidemill_models",] == 2
    for counters in shared:
        counters.close()


def _count_and_die(folder: str) -> None:
    metrics = Metrics(SharedCounters(Path(folder)))
    metrics.counter("tidemill_model_loads_total").add(5)
    metrics.gauge("tidemill_cache_entries").set(7)
    os._exit(1)


def test_counters_of_a_dead_process_stay_and_its_gauges_go(tmp_path: Path) -> None:
    dying = multiprocessing.get_context("spawn").Process(
        target=_count_and_die, args=(str(tmp_path),)
    )
    dying.start()
    dying.join(300)
    counters = SharedCounters(tmp_path)
    metrics = Metrics(counters)
    metrics.counter("tidemill_model_loads_total").add(1)
    found = samples(metrics)
    assert found["tidemill_model_loads_total",] == 6
    assert ("tidemill_cache_entries",) not in found
    remove_dead_processes(tmp_path)
    assert samples(metrics)["tidemill_model_loads_total",] == 1
    counters.close()


def test_unbounded_label_values_do_not_grow_the_file() -> None:
    counts = SharedCounters()
    for number in range(SLOTS + 100):
        slot = counts.allocate("counter", "tidemill_model_refusals_total", {"model": str(number)})
        counts.values[slot] += 1
    assert len(counts.values) == SLOTS


@given(st.lists(st.floats(0, 20), max_size=50))
def test_a_histogram_counts_values_up_to_each_bound(values: list[float]) -> None:
    metrics = Metrics(SharedCounters())
    histogram = metrics.histogram("tidemill_inference_seconds", model="m")
    for value in values:
        histogram.observe(value)
    found = samples(metrics)
    for bound in SECONDS:
        key = ("tidemill_inference_seconds_bucket", str(bound), "m")
        assert found[key] == sum(value <= bound for value in values)
    assert found["tidemill_inference_seconds_count", "m"] == len(values)


def test_ids_are_unique_sorted_by_time_and_fit_a_header() -> None:
    sources = [id_source() for _ in range(3)]
    made = [source() for _ in range(5000) for source in sources]
    assert len(set(made)) == len(made)
    assert all(REQUEST_ID.fullmatch(each.encode()) and len(each) == 26 for each in made)
    ticks = iter([1.0, 2.0, 3000.0])
    timed = id_source(lambda: next(ticks))
    three = [timed() for _ in range(3)]
    assert three == sorted(three)


def test_only_valid_traces_have_an_id() -> None:
    good = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert trace_id(good) == "4bf92f3577b34da6a3ce929d0e0e4736"
    for bad in (
        b"", good[:-1], good + b"-x", b"ff" + good[2:], good.upper(),
        b"00-" + b"0" * 32 + good[35:], good[:36] + b"0" * 16 + good[52:],
    ):  # fmt: skip
        assert trace_id(bad) is None, bad

"""Traffic figures from the data plane's counters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.console.traffic import (
    MAX_READINGS,
    CounterReading,
    Traffic,
    TrafficFigures,
    figures,
    parse_metrics,
    quantile,
)

TEXT = """
http_requests_total{code="200",method="POST",route="/models/{name}/predict"} %d
http_requests_total{code="500",method="POST",route="/predict"} %d
http_requests_total{code="200",method="GET",route="/ready"} 999
http_request_duration_seconds_bucket{le="0.001",method="POST",route="/predict"} %d
http_request_duration_seconds_bucket{le="0.01",method="POST",route="/predict"} %d
http_request_duration_seconds_bucket{le="+Inf",method="POST",route="/predict"} %d
model_predictions_total{model="a \\"b\\"",version="1"} %d
model_predictions_total{model="a \\"b\\"",version="2"} 5
"""


def test_only_prediction_routes_are_counted() -> None:
    found = parse_metrics(TEXT % (10, 2, 6, 12, 12, 30), 0.0)
    assert found.codes == {"200": 10, "500": 2}
    assert found.buckets == {0.001: 6, 0.01: 12, float("inf"): 12}
    assert found.rows == {'a "b"': 35}


def test_figures_are_differences_between_readings() -> None:
    readings = [parse_metrics(TEXT % values, at) for at, values in enumerate(
        [(10, 2, 6, 12, 12, 30), (10, 2, 6, 12, 12, 30), (28, 4, 24, 32, 32, 70)]
    )]  # fmt: skip
    found = figures(readings)
    assert found.seconds == 2
    assert found.rate == 10
    assert found.errors == pytest.approx(2 / 20)
    assert found.rows == {'a "b"': 20}
    assert found.curve == (0, 20)
    assert found.p50 == pytest.approx(0.001 * 10 / 18)
    assert found.p99 is not None
    assert 0.001 < found.p99 <= 0.01


def test_one_reading_gives_no_figures() -> None:
    assert figures([CounterReading(1.0, {"200": 5}, {}, {})]) == TrafficFigures()


def test_readings_are_bounded_and_cleared_by_a_restart() -> None:
    texts = iter([*(TEXT % (n, 0, n, n, n, n) for n in range(200)), TEXT % (0, 0, 0, 0, 0, 0)])
    traffic = Traffic(lambda url: next(texts))
    for _ in range(200):
        found = traffic.read("here")
    assert len(found.curve) == MAX_READINGS - 1
    assert traffic.read("here") == TrafficFigures()


@given(
    st.lists(st.integers(0, 50), min_size=2, max_size=8),
    st.floats(0.01, 0.99),
    st.floats(0.01, 0.99),
)
def test_quantiles_are_within_bounds_and_increase(
    counts: list[int], one: float, other: float
) -> None:
    bounds = [0.001 * 2**i for i in range(len(counts) - 1)] + [float("inf")]
    total, buckets = 0, {}
    for bound, count in zip(bounds, counts, strict=True):
        total += count
        buckets[bound] = float(total)
    low, high = quantile(buckets, min(one, other)), quantile(buckets, max(one, other))
    if total == 0:
        assert low is None
    else:
        assert low is not None
        assert high is not None
        assert 0 <= low <= high + 1e-12
        assert high <= bounds[-2]

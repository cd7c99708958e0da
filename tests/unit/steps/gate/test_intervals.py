"""Confidence intervals of metrics: their coverage and their limits."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tidemill.steps.evaluation.bootstrap import EncodedPredictions
from tidemill.steps.gate.gate import VersionEvidence
from tidemill.steps.gate.intervals import Intervals, interval, metric_intervals


def answers(
    random: np.random.Generator, rows: int, right: float
) -> tuple[np.ndarray, VersionEvidence]:
    """Two classes, of which `right` of the rows are told correctly."""
    y = random.integers(0, 2, rows)
    predicted = np.where(random.random(rows) < right, y, 1 - y)
    sure = np.where(predicted == 1, 0.8, 0.2) + random.uniform(-0.1, 0.1, rows)
    return y, VersionEvidence(predicted, np.column_stack([1 - sure, sure]), labels=(0, 1))


def test_the_interval_of_accuracy_has_about_its_nominal_coverage() -> None:
    random, hits = np.random.default_rng(1), 0
    for _ in range(200):
        y, given = answers(random, 150, 0.8)
        bounds = interval("accuracy", y, EncodedPredictions(given.predicted))
        assert bounds is not None
        hits += bounds[0] <= 0.8 <= bounds[1]
    assert 181 <= hits <= 198, hits  # 95% of 200, four standard deviations each way


def test_every_metric_has_an_interval_around_its_value_and_more_rows_narrow_it() -> None:
    random = np.random.default_rng(2)
    widths = []
    for rows in (60, 6_000):
        y, given = answers(random, rows, 0.9)
        found = metric_intervals("classification", y, given)
        assert found.rows == rows
        assert {"accuracy", "f1_score", "roc_auc", "log_loss"} <= set(found.intervals)
        low, high = found.intervals["accuracy"]
        assert low <= float((y == given.predicted).mean()) <= high
        widths.append(high - low)
    assert widths[0] == pytest.approx(10 * widths[1], rel=0.5)


def test_regression_metrics_have_intervals_too() -> None:
    random = np.random.default_rng(3)
    y = random.normal(size=500)
    found = metric_intervals(
        "regression", y, VersionEvidence(y + random.normal(0, 0.5, 500))
    ).intervals
    assert set(found) == {"rmse", "mae", "r2"}
    assert found["rmse"][0] < 0.5 < found["rmse"][1]


def test_a_metric_undefined_in_most_samples_has_no_interval() -> None:
    y = np.array([1] + [0] * 40)
    given = VersionEvidence(y, np.column_stack([1 - y, y]).astype(float), labels=(0, 1))
    found = metric_intervals("classification", y, given).intervals
    assert "roc_auc" not in found
    assert found["accuracy"] == (1.0, 1.0)


def test_many_rows_are_resampled_less_often() -> None:
    y, given = answers(np.random.default_rng(5), 62_500, 0.7)
    found = metric_intervals("classification", y, given)
    assert found.resamples == 800
    assert "roc_auc" not in found.intervals
    assert "log_loss" in found.intervals


def test_intervals_are_deterministic_and_encode_as_json() -> None:
    y, given = answers(np.random.default_rng(4), 80, 0.7)
    once, again = (metric_intervals("classification", y, given) for _ in range(2))
    assert msgspec.json.decode(msgspec.json.encode(once), type=Intervals) == again

"""The one table of metrics, and what is looked up in it."""

from __future__ import annotations

import doctest
import math

import pytest

from tidemill import metrics
from tidemill.metrics import METRICS, TASKS, default_metric, is_better, metrics_of, row_metric


def test_the_examples_in_the_docstring_are_right() -> None:
    found = doctest.testmod(metrics)
    assert (found.attempted, found.failed) == (3, 0)


def test_every_metric_belongs_to_one_task_and_has_a_default() -> None:
    assert [*metrics_of("classification"), *metrics_of("regression")] == list(METRICS)
    for task in TASKS:
        assert METRICS[default_metric(task)].task == task
        assert METRICS[row_metric(task)].task == task


def test_probabilities_can_be_left_out() -> None:
    names = metrics_of("classification", probabilities=False)
    assert "accuracy" in names
    assert {"roc_auc", "log_loss"}.isdisjoint(names)


def test_only_errors_and_losses_are_unbounded_above() -> None:
    unbounded = {name for name, metric in METRICS.items() if metric.high == math.inf}
    assert unbounded == {"log_loss", "rmse", "mae"}
    assert all(not METRICS[name].higher_is_better for name in unbounded)


@pytest.mark.parametrize(("metric", "better", "worse"), [("recall", 0.9, 0.8), ("rmse", 0.8, 0.9)])
def test_better_is_higher_or_lower_by_metric(metric: str, better: float, worse: float) -> None:
    assert is_better(metric, better, worse)
    assert not is_better(metric, worse, better)
    assert not is_better(metric, worse, worse)
    assert METRICS[metric].sign * (better - worse) > 0

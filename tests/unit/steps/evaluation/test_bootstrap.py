"""The paired bootstrap: scikit-learn's metrics on every sample, and samples as a naive loop's."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from tidemill.metrics import METRICS
from tidemill.steps.evaluation import bootstrap as resample
from tidemill.steps.evaluation.bootstrap import EncodedPredictions, paired_bootstrap, point_value

OF_VALUES = ("rmse", "mae", "r2")
CLASSIFIED = [m for m in METRICS if m not in OF_VALUES]


def by_sklearn(metric: str, y: Any, answers: EncodedPredictions) -> float:
    """The metric of rows by scikit-learn itself; NaN where it has none."""
    predicted, probabilities = answers.predicted, answers.probabilities
    if metric in ("accuracy", "rmse", "mae", "r2"):
        names = {
            "accuracy": metrics.accuracy_score,
            "rmse": metrics.root_mean_squared_error,
            "mae": metrics.mean_absolute_error,
            "r2": metrics.r2_score,
        }
        return float(names[metric](y, predicted))
    assert probabilities is not None
    if metric == "log_loss":
        return float(metrics.log_loss(y, probabilities, labels=list(answers.known)))
    if metric == "roc_auc":
        areas = [
            metrics.roc_auc_score(y == label, probabilities[:, k])
            for k, label in list(enumerate(answers.known))[1 if len(answers.known) == 2 else 0 :]
            if 0 < (y == label).sum() < len(y)
        ]
        return float(np.mean(areas)) if areas else float("nan")
    score = {
        "precision": metrics.precision_score,
        "recall": metrics.recall_score,
        "f1": metrics.f1_score,
    }[metric.partition("_")[0]]
    average = "weighted" if metric.endswith("_weighted") else "macro"
    return float(score(y, predicted, average=average, zero_division=0))


def classifier(
    random: np.random.Generator, y: Any, classes: int, skill: float
) -> EncodedPredictions:
    """Answers with some skill; few levels, so that scores tie between rows."""
    scores = random.integers(1, 6, (len(y), classes)) / 5
    scores[np.arange(len(y)), y] += skill * random.integers(0, 2, len(y))
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    return EncodedPredictions(probabilities.argmax(axis=1), probabilities, tuple(range(classes)))


def regressor(random: np.random.Generator, y: Any, noise: float) -> EncodedPredictions:
    return EncodedPredictions(y + random.normal(scale=noise, size=len(y)))


def problem(
    metric: str, seed: int, rows: int, classes: int = 3
) -> tuple[Any, EncodedPredictions, EncodedPredictions]:
    random = np.random.default_rng(seed)
    if metric in OF_VALUES:
        y: Any = random.normal(size=rows)
        return y, regressor(random, y, 0.5), regressor(random, y, 0.6)
    y = random.integers(0, classes, rows)
    return y, classifier(random, y, classes, 0.4), classifier(random, y, classes, 0.3)


@settings(max_examples=60)
@given(
    metric=st.sampled_from(list(METRICS)),
    seed=st.integers(0, 10_000),
    rows=st.integers(2, 30),
    classes=st.integers(2, 4),
)
def test_the_metric_of_the_rows_is_scikit_learns(
    metric: str, seed: int, rows: int, classes: int
) -> None:
    y, answers, _ = problem(metric, seed, rows, classes)
    assert point_value(metric, y, answers) == pytest.approx(
        by_sklearn(metric, y, answers), rel=1e-9, abs=1e-9, nan_ok=True
    )


@settings(max_examples=50)
@given(
    metric=st.sampled_from(list(METRICS)),
    seed=st.integers(0, 10_000),
    rows=st.integers(3, 20),
    classes=st.integers(2, 3),
)
def test_the_metric_of_every_sample_is_scikit_learns_on_the_rows_drawn(
    metric: str, seed: int, rows: int, classes: int
) -> None:
    y, answers, _ = problem(metric, seed, rows, classes)
    counts = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=5)
    if metric == "roc_auc":
        found = resample._Curves(y, answers).areas(counts.astype(float))
    else:
        statistics, finish = resample._statistics(metric, y, answers)
        found = finish(counts @ statistics)
    for value, times in zip(found, counts, strict=True):
        drawn = np.repeat(np.arange(rows), times)
        probabilities = answers.probabilities
        part = EncodedPredictions(
            answers.predicted[drawn],
            None if probabilities is None else probabilities[drawn],
            answers.known,
        )
        if metric == "r2" and len(set(y[drawn])) == 1:
            continue
        assert value == pytest.approx(
            by_sklearn(metric, y[drawn], part), rel=1e-8, abs=1e-9, nan_ok=True
        )


def naive(
    metric: str, y: Any, one: EncodedPredictions, other: EncodedPredictions, resamples: int
) -> Any:
    random = np.random.default_rng(7)
    gains = []
    for _ in range(resamples):
        rows = random.integers(0, len(y), len(y))
        values = [
            by_sklearn(
                metric,
                y[rows],
                EncodedPredictions(
                    a.predicted[rows],
                    None if a.probabilities is None else a.probabilities[rows],
                    a.known,
                ),
            )
            for a in (one, other)
        ]
        gains.append(values[0] - values[1])
    return np.array(gains)


@pytest.mark.parametrize("metric", ["f1_score", "roc_auc", "log_loss", "rmse"])
def test_the_samples_are_distributed_as_a_naive_loops(metric: str) -> None:
    """Mean, spread and tails of the difference, within four standard errors of a naive loop."""
    y, one, other = problem(metric, seed=3, rows=60)
    loops = 120
    slow = naive(metric, y, one, other, loops)
    ones, others = paired_bootstrap(metric, y, one, other, resamples=20_000, seed=1)
    fast = ones - others
    spread = fast.std()
    assert slow.mean() == pytest.approx(fast.mean(), abs=4 * spread / loops**0.5)
    assert slow.std() == pytest.approx(spread, rel=4 / (2 * loops) ** 0.5)
    for share in (0.05, 0.95):
        reached = (slow <= np.quantile(fast, share)).mean()
        assert reached == pytest.approx(share, abs=4 * (share * (1 - share) / loops) ** 0.5 + 0.02)


def test_groups_and_rows_give_the_same_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    y, one, other = problem("f1_score", seed=5, rows=80)
    by_cells = np.subtract(*paired_bootstrap("f1_score", y, one, other, resamples=20_000, seed=1))
    monkeypatch.setattr(resample, "FEW_GROUPS", 0)
    by_rows = np.subtract(*paired_bootstrap("f1_score", y, one, other, resamples=20_000, seed=2))
    assert stats.ks_2samp(by_cells, by_rows).pvalue > 0.01


@pytest.mark.parametrize("metric", ["f1_score", "rmse", "roc_auc"])
def test_samples_do_not_depend_on_the_memory_limit(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, one, other = problem(metric, seed=2, rows=50)
    whole = paired_bootstrap(metric, y, one, other, resamples=300, seed=9)
    monkeypatch.setattr(resample, "MAX_BYTES", 8 * 50 * 7)
    pieces = paired_bootstrap(metric, y, one, other, resamples=300, seed=9)
    np.testing.assert_allclose(whole, pieces, rtol=1e-12)
    another = paired_bootstrap(metric, y, one, other, resamples=300, seed=10)
    assert not np.array_equal(whole[0], another[0])


@given(rows=st.integers(1, 10_000_000), resamples=st.integers(1, 20_000))
def test_samples_are_made_in_chunks_within_the_limit(rows: int, resamples: int) -> None:
    total = 0
    for step in resample._chunks(resamples, rows):
        assert step == 1 or step * rows * 8 <= resample.MAX_BYTES
        total += step
        if total > 100:
            return
    assert total == resamples


def test_both_models_see_the_same_sample() -> None:
    y, one, _ = problem("accuracy", seed=1, rows=40)
    ones, others = paired_bootstrap("accuracy", y, one, one, resamples=1000, seed=1)
    np.testing.assert_array_equal(ones, others)
    assert ones.std() > 0


def test_a_sample_without_a_curve_is_nan_and_no_warning() -> None:
    y = np.array([0, 0, 0, 0, 1])
    answers = EncodedPredictions(y, np.array([[0.6, 0.4]] * 4 + [[0.2, 0.8]]), (0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ones, _ = paired_bootstrap("roc_auc", y, answers, answers, resamples=2000, seed=1)
    assert np.isnan(ones).mean() == pytest.approx(0.8**5, abs=0.04)
    assert np.nanmax(ones) == 1.0


def test_perfect_and_constant_answers_have_the_values_they_should() -> None:
    y = np.array([1.0, 1.0, 1.0])
    assert point_value("r2", y, EncodedPredictions(y)) == 1.0
    assert point_value("r2", y, EncodedPredictions(y + 1)) == 0.0
    labels = np.array([0, 1, 2])
    assert point_value("f1_score", labels, EncodedPredictions(labels)) == 1.0
    assert np.isnan(point_value("roc_auc", labels, EncodedPredictions(labels)))
    sure = EncodedPredictions(labels, np.eye(3), (0, 1, 2))
    assert point_value("log_loss", labels, sure) == pytest.approx(0.0, abs=1e-12)


def test_a_class_the_model_never_learned_costs_the_most_but_not_infinitely() -> None:
    y = np.array([0, 1, 2])
    answers = EncodedPredictions(
        np.array([0, 1, 0]), np.array([[1.0, 0], [0, 1.0], [1.0, 0]]), (0, 1)
    )
    assert point_value("log_loss", y, answers) == pytest.approx(
        -np.log(np.finfo(float).eps) / 3, rel=1e-6
    )

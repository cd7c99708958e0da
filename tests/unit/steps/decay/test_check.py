"""A hurt model is told from a lucky window, and from data that merely moved."""

import json

import msgspec
import numpy as np
import pytest

from tidemill.errors import ProjectError
from tidemill.policies import Decay
from tidemill.steps.decay.cbpe import AccuracyEstimate
from tidemill.steps.decay.check import DecayReport, assess, check_decay
from tidemill.steps.decay.holdout import (
    BOOTSTRAP_ROWS,
    Holdout,
    MetricValue,
    bootstrap_metric,
    encode,
    measure_holdout,
    read_holdout,
    row_losses,
)
from tidemill.steps.decay.loss_detector import loss_detector
from tidemill.steps.drift.check import DriftReport
from tidemill.steps.evaluation import evaluate

LABELS = ("no", "perhaps", "yes")


def answers(rows, right, seed):
    """Truth, answers and probabilities of a model that is right so often."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 3, rows)
    said = np.where(random.random(rows) < right, truth, (truth + 1) % 3)
    chances = random.dirichlet(np.ones(3), rows) * 0.3
    chances[np.arange(rows), said] += 0.7
    names = np.array(LABELS, dtype=object)
    return names[truth], names[said], chances


def values(rows, error, seed):
    random = np.random.default_rng(seed)
    truth = random.normal(10, 3, rows)
    return truth, truth + random.normal(0, error, rows)


@pytest.fixture(scope="module")
def holdout():
    return measure_holdout("classification", *answers(400, 0.9, 0), LABELS)


@pytest.mark.parametrize("metric", ["accuracy", "f1_score", "recall_weighted", "log_loss"])
def test_worse_classifier_is_degraded(holdout, metric):
    worse = answers(500, 0.75, 1)
    report = check_decay(holdout.metrics[metric], *worse, metric=metric, labels=LABELS)

    assert report.enough
    assert report.degraded
    assert report.low < report.value < report.high
    assert report.loss > 0


@pytest.mark.parametrize("metric", ["accuracy", "f1_score", "precision", "roc_auc", "log_loss"])
def test_unchanged_classifier_is_not_degraded(holdout, metric):
    same = answers(500, 0.9, 2)
    report = check_decay(holdout.metrics[metric], *same, metric=metric, labels=LABELS)

    assert report.enough
    assert not report.degraded
    assert report.summary.startswith("The model has not degraded")


@pytest.mark.parametrize("metric", ["rmse", "mae", "r2"])
def test_worse_regressor_is_degraded_and_an_equal_one_is_not(metric):
    held_out = measure_holdout("regression", *values(400, 1.0, 3)).metrics[metric]

    assert check_decay(held_out, *values(300, 1.5, 4), metric=metric).degraded
    assert not check_decay(held_out, *values(300, 1.0, 5), metric=metric).degraded
    assert not check_decay(held_out, *values(300, 0.5, 6), metric=metric).degraded


def test_the_tolerance_is_in_units_of_the_metric():
    held_out = measure_holdout("regression", *values(2000, 1.0, 3)).metrics["rmse"]
    window = values(2000, 1.2, 7)

    assert check_decay(held_out, *window, metric="rmse").degraded
    assert not check_decay(held_out, *window, metric="rmse", policy=Decay(tolerance=0.4)).degraded


def test_an_uncertain_reference_makes_a_verdict_harder():
    window = answers(200, 0.84, 8)

    strict = Decay(alpha=0.01)
    assert check_decay(0.9, *window, metric="accuracy", labels=LABELS, policy=strict).degraded
    unsure = MetricValue(0.9, error=0.05)
    found = check_decay(unsure, *window, metric="accuracy", labels=LABELS, policy=strict)
    assert not found.degraded


def test_perfect_small_holdout_does_not_cause_a_false_alarm():
    names, said, chances = answers(30, 1.0, 9)
    perfect = measure_holdout("classification", names, said, chances, LABELS)
    window = answers(500, 0.96, 10)

    assert perfect.metrics["accuracy"].value == 1.0
    assert not check_decay(
        perfect.metrics["accuracy"], *window, metric="accuracy", labels=LABELS
    ).degraded


def test_few_labelled_rows_get_no_verdict(holdout):
    report = check_decay(
        holdout.metrics["accuracy"], *answers(49, 0.1, 11), metric="accuracy", labels=LABELS
    )

    assert (report.enough, report.degraded, report.value) == (False, False, None)
    assert "50 are needed" in report.summary


def test_a_metric_that_the_window_does_not_define_gets_no_verdict(holdout):
    names, said, chances = answers(100, 0.9, 12)
    report = check_decay(
        holdout.metrics["roc_auc"],
        np.full(100, "no", dtype=object),
        said,
        chances,
        metric="roc_auc",
        labels=LABELS,
    )

    assert not report.enough
    assert len(names) == 100


@pytest.mark.parametrize("metric", ["luck", "roc_auc"])
def test_metric_without_its_probabilities_is_an_error(metric):
    truth, said, _ = answers(100, 0.9, 13)

    with pytest.raises(ProjectError, match=metric):
        check_decay(0.5, truth, said, metric=metric, labels=LABELS)


def test_false_alarm_rate_is_close_to_alpha():
    hurt = 0
    for seed in range(150):
        truth, said, _ = answers(150, 0.9, 2000 + seed)
        held_out = measure_holdout("classification", truth, said).metrics["accuracy"]
        window = answers(200, 0.9, 5000 + seed)[:2]
        hurt += check_decay(held_out, *window, metric="accuracy").degraded

    assert hurt <= 6  # 1% of 150 is 1.5; seven come once in a thousand


@pytest.mark.parametrize("metric", ["accuracy", "mae", "r2", "log_loss"])
def test_interval_is_around_the_value_and_within_its_range(holdout, metric):
    if metric in ("accuracy", "log_loss"):
        rows, labels, known = answers(60, 0.7, 1), LABELS, holdout.metrics[metric]
    else:
        rows, labels = values(60, 1.0, 1), ()
        known = measure_holdout("regression", *values(400, 1.0, 2)).metrics[metric]
    found = check_decay(known, *rows, metric=metric, labels=labels)
    assert found.low < found.value < found.high
    assert found.low >= 0 or metric == "r2"
    assert found.high <= 1 or metric in ("mae", "log_loss")


def test_a_holdout_has_the_metrics_that_evaluation_has(holdout):
    truth, said, chances = answers(400, 0.9, 0)
    expected = evaluate.classification_metrics(truth, said, chances, LABELS)

    assert {name: value.value for name, value in holdout.metrics.items()} == pytest.approx(expected)
    assert all(0 < value.error < 0.1 for value in holdout.metrics.values())


def test_a_holdout_survives_json(holdout):
    profile = json.loads(msgspec.json.encode({"holdout": holdout}))

    assert read_holdout(profile) == holdout
    assert isinstance(holdout, Holdout)
    assert read_holdout({"holdout": None}) is None
    assert read_holdout({}) is None


def test_a_model_without_probabilities_has_no_calibration():
    truth, said, _ = answers(100, 0.9, 14)
    measured = measure_holdout("classification", truth, said)

    assert measured.calibration is None
    assert "log_loss" not in measured.metrics


def test_many_rows_are_bootstrapped_in_part_with_the_right_spread():
    truth, said = values(4 * BOOTSTRAP_ROWS, 1.0, 15)
    found = bootstrap_metric(
        "rmse", *encode("regression", truth, said, None, ()), resamples=300, seed=1
    )

    # The standard error of an rmse of normal errors is 1 / sqrt(2 n).
    assert found.std() == pytest.approx(1 / np.sqrt(2 * len(truth)), rel=0.2)
    assert found.mean() == pytest.approx(evaluate.regression_metrics(truth, said)["rmse"], rel=0.01)


def test_losses_are_wrong_answers_or_absolute_errors():
    assert row_losses("classification", np.array(["a", "b"]), np.array(["a", "a"])).tolist() == [
        0.0,
        1.0,
    ]
    assert row_losses("regression", np.array([1.0, 2.0]), np.array([3.0, 1.5])).tolist() == [2, 0.5]


@pytest.mark.parametrize("right", [1.0, 0.9, 0.0])
def test_a_detector_can_be_made_of_any_classifier(right):
    measured = measure_holdout("classification", *answers(60, right, 16), LABELS)
    detector = loss_detector(measured)

    assert not detector.update(np.full(20, measured.losses.mean))
    assert np.isfinite(detector.threshold)


@pytest.mark.parametrize("error", [1.0, 0.0])
def test_a_detector_can_be_made_of_any_regressor(error):
    measured = measure_holdout("regression", *values(200, error, 17))
    detector = loss_detector(measured)

    assert not detector.update(np.full(100, measured.losses.mean))
    assert detector.update(np.full(1000, measured.losses.mean + 2.0))


DRIFTED = DriftReport(500, 500, True, True, "The data moved.")
STILL = DriftReport(500, 500, True, False, "The data has not moved.")
SHORT = DriftReport(5, 5, False, False, "No verdict.")
HURT = DecayReport("f1_score", 500, True, True, 0.9, "The model has degraded.")
HOLDS = DecayReport("f1_score", 500, True, False, 0.9, "The model has not degraded.")
UNLABELLED = DecayReport("f1_score", 3, False, False, 0.9, "No verdict.")
ESTIMATED_HURT = AccuracyEstimate(0.7, 0.6, 0.8, 500, 0.9, True, "Estimated at 0.7.")


@pytest.mark.parametrize(
    ("drift", "decay", "estimate", "state", "basis"),
    [
        (DRIFTED, HOLDS, None, "data moved", "labels"),
        (STILL, HURT, None, "model degraded", "labels"),
        (DRIFTED, HURT, None, "data moved and model degraded", "labels"),
        (STILL, HOLDS, None, "steady", "labels"),
        (STILL, HOLDS, ESTIMATED_HURT, "steady", "labels"),
        (DRIFTED, UNLABELLED, ESTIMATED_HURT, "data moved and model degraded", "confidences"),
        (DRIFTED, None, None, "data moved", ""),
        (SHORT, None, None, "unknown", ""),
        (None, None, None, "unknown", ""),
    ],
)
def test_assessment_separates_drift_from_degradation(drift, decay, estimate, state, basis):
    judgement = assess(drift, decay, estimate)

    assert (judgement.state, judgement.basis) == (state, basis)
    assert all(part.summary in judgement.summary for part in (drift, decay, estimate) if part)

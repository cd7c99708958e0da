"""Estimated accuracy follows the truth while confidences keep their meaning."""

import msgspec
import numpy as np
import pytest
from scipy import special

from tidemill.steps.decay.cbpe import (
    Calibration,
    calibrated,
    estimate_accuracy,
    fit_calibration,
)


def confidences(rows, seed, middle=2.0, bias=0.0):
    """Confidences, and whether the answer was right: overconfident when bias is below zero."""
    random = np.random.default_rng(seed)
    logits = random.normal(middle, 1.0, rows)
    right = random.random(rows) < special.expit(logits + bias)
    return special.expit(logits), right


@pytest.mark.parametrize("bias", [0.0, -1.0, 0.7])
def test_calibration_recovers_the_true_accuracy(bias):
    calibration = fit_calibration(*confidences(5000, 0, bias=bias))

    assert calibration.slope == pytest.approx(1.0, abs=0.1)
    assert calibration.intercept == pytest.approx(bias, abs=0.2)


def test_few_rows_change_confidences_little():
    calibration = fit_calibration(np.array([0.9, 0.8]), np.array([True, True]))

    assert calibration.slope == pytest.approx(1.0, abs=0.3)
    assert abs(calibration.intercept) < 0.5


def test_overconfident_model_is_calibrated():
    held_out = confidences(2000, 1, bias=-1.0)
    window = confidences(1000, 2, bias=-1.0)
    estimate = estimate_accuracy(fit_calibration(*held_out), window[0])

    assert estimate.value == pytest.approx(window[1].mean(), abs=0.04)
    assert estimate.low < window[1].mean() < estimate.high
    assert not estimate.degraded


def test_inputs_the_model_is_unsure_of_lower_the_estimate():
    calibration = fit_calibration(*confidences(2000, 3))
    window = confidences(1000, 4, middle=0.5)
    estimate = estimate_accuracy(calibration, window[0])

    assert estimate.degraded
    assert estimate.value == pytest.approx(window[1].mean(), abs=0.04)
    assert "below" in estimate.summary


def test_false_alarm_rate_is_close_to_alpha():
    hurt = 0
    for seed in range(200):
        calibration = fit_calibration(*confidences(150, 100 + seed))
        hurt += estimate_accuracy(calibration, confidences(200, 900 + seed)[0]).degraded

    assert hurt <= 7


def test_interval_covers_the_true_accuracy():
    inside = 0
    for seed in range(200):
        calibration = fit_calibration(*confidences(300, 100 + seed, bias=-0.5))
        window = confidences(300, 900 + seed, bias=-0.5)
        estimate = estimate_accuracy(calibration, window[0])
        inside += estimate.low <= window[1].mean() <= estimate.high

    assert inside >= 180


@pytest.mark.parametrize("right", [True, False])
def test_certain_answers_leave_a_finite_line(right):
    calibration = fit_calibration(np.ones(500), np.full(500, right))
    estimate = estimate_accuracy(calibration, np.ones(100))

    assert np.isfinite([calibration.slope, calibration.intercept, estimate.value]).all()
    assert (estimate.value > 0.5) is right
    assert 0 <= estimate.low <= estimate.high <= 1


def test_a_calibration_survives_json():
    calibration = fit_calibration(*confidences(100, 5))

    assert msgspec.json.decode(msgspec.json.encode(calibration), type=Calibration) == calibration


def test_without_held_out_rows_there_is_no_calibration():
    assert fit_calibration(np.array([]), np.array([], dtype=bool)) is None


def test_calibrated_confidences_average_to_the_estimate():
    calibration = fit_calibration(*confidences(400, 6))
    window = confidences(100, 7)[0]

    expected = estimate_accuracy(calibration, window).value
    assert calibrated(calibration, window).mean() == pytest.approx(expected)

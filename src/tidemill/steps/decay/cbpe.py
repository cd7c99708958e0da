"""Accuracy without labels: what a classifier's own confidences, once calibrated, say it must be.

A calibrated confidence of 0.8 is right four times in five, so the mean confidence of a window is
its expected accuracy. Calibration is learned on held-out rows: a line in the logits with a prior
that keeps it near "take the confidence as it is" where held-out rows are few.

It sees inputs moving to where the model is unsure. It cannot see the answer to the same input
changing (concept drift): only labels show that, and `tidemill.steps.decay.check` looks at them.

Sources: confidence-based performance estimation, Kivimäki et al., JAIR 82 (2025); scaling of
logits, Platt, "Advances in Large Margin Classifiers" (1999) 61.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

#: Confidences are held this far from 0 and 1, where logits would run away.
CLIP = 1e-3

#: Precisions of the normal prior on the line: slope around 1, intercept around 0.
PRIOR = np.array([1.0, 0.3])
CENTRE = np.array([1.0, 0.0])

Z95 = 1.959964


class Calibration(msgspec.Struct, frozen=True):
    """P(right) = sigmoid(slope * logit(confidence) + intercept), learned on `rows` rows.

    `covariance` is that of slope and intercept: (slope, both, intercept). `estimated` is the mean
    of the calibrated confidences of the held-out rows, `deviation` their standard deviation and
    `gradient` how `estimated` moves with slope and intercept; `accuracy` is the true one.
    """

    slope: float
    intercept: float
    covariance: tuple[float, float, float]
    rows: int
    accuracy: float
    estimated: float
    deviation: float
    gradient: tuple[float, float]


class AccuracyEstimate(msgspec.Struct, frozen=True):
    """The expected accuracy of a window without labels, with 95% bounds.

    The bounds cover chance in the window and in the calibration, not a changed relation between
    inputs and labels. `reference` is the accuracy on held-out rows.
    """

    value: float
    low: float
    high: float
    rows: int
    reference: float
    hurt: bool
    summary: str


def fit_calibration(confidence: Floats, right: NDArray[np.bool_]) -> Calibration | None:
    """Learn what confidences are worth from held-out rows; None without any.

    Args:
        confidence: The probability given to the answered label [rows].
        right: Whether the answer was right [rows].
    """
    if len(confidence) == 0:
        return None
    design = _design(np.asarray(confidence, dtype=np.float64))
    target = np.asarray(right, dtype=np.float64)
    line = _fit(design, target)
    covariance = np.linalg.inv(_curvature(design, line))
    chance = special.expit(design @ line)
    gradient = _gradient(design, chance)
    return Calibration(
        slope=float(line[0]),
        intercept=float(line[1]),
        covariance=(float(covariance[0, 0]), float(covariance[0, 1]), float(covariance[1, 1])),
        rows=len(target),
        accuracy=float(target.mean()),
        estimated=float(chance.mean()),
        deviation=float(chance.std()),
        gradient=(float(gradient[0]), float(gradient[1])),
    )


def estimate_accuracy(
    calibration: Calibration, confidence: Floats, *, alpha: float = 0.01, tolerance: float = 0.0
) -> AccuracyEstimate:
    """The expected accuracy of answers with these confidences.

    Args:
        calibration: What confidences are worth.
        confidence: The probability given to each answered label [rows], at least one.
        alpha: The chance of calling an unchanged model hurt.
        tolerance: How much less accuracy than on held-out rows is no harm.
    """
    design = _design(np.asarray(confidence, dtype=np.float64))
    chance = special.expit(design @ np.array([calibration.slope, calibration.intercept]))
    value, rows = float(chance.mean()), len(chance)
    gradient = _gradient(design, chance)
    luck = float((chance * (1 - chance)).mean()) / rows
    error = np.sqrt(luck + _variance(calibration, gradient))
    # Both means come from one line: its error counts only as far as it moves them apart.
    apart = _variance(calibration, gradient - np.array(calibration.gradient))
    draws = float(chance.var()) / rows + calibration.deviation**2 / calibration.rows
    fall = calibration.estimated - value - tolerance
    hurt = bool(fall > special.ndtri(1 - alpha) * np.sqrt(draws + apart))
    return AccuracyEstimate(
        value=value,
        low=float(max(0.0, value - Z95 * error)),
        high=float(min(1.0, value + Z95 * error)),
        rows=rows,
        reference=calibration.accuracy,
        hurt=hurt,
        summary=_summary(value, float(Z95 * error), hurt, calibration),
    )


def calibrated(calibration: Calibration, confidence: Floats) -> Floats:
    """Each confidence as the chance that the answer is right [rows]."""
    line = np.array([calibration.slope, calibration.intercept])
    return np.asarray(special.expit(_design(confidence) @ line))


def _design(confidence: Floats) -> Floats:
    logits = special.logit(np.clip(confidence, CLIP, 1 - CLIP))
    return np.column_stack([logits, np.ones(len(logits))])


def _fit(design: Floats, target: Floats) -> Floats:
    """Newton's method with halved steps: the loss is convex, so it always arrives."""
    line, loss = CENTRE.copy(), _loss(design, target, CENTRE)
    for _ in range(100):
        residual = special.expit(design @ line) - target
        gradient = design.T @ residual + PRIOR * (line - CENTRE)
        step = np.linalg.solve(_curvature(design, line), gradient)
        size = 1.0
        while size > 1e-8 and _loss(design, target, line - size * step) > loss:
            size /= 2
        line = line - size * step
        fallen, loss = loss, _loss(design, target, line)
        if fallen - loss < 1e-10:
            break
    return line


def _loss(design: Floats, target: Floats, line: Floats) -> float:
    scores = design @ line
    fit = float(np.logaddexp(0.0, scores).sum() - target @ scores)
    return fit + float((PRIOR * (line - CENTRE) ** 2).sum()) / 2


def _curvature(design: Floats, line: Floats) -> Floats:
    chance = special.expit(design @ line)
    return np.asarray(design.T @ (design * (chance * (1 - chance))[:, None]) + np.diag(PRIOR))


def _gradient(design: Floats, chance: Floats) -> Floats:
    """How the mean of the calibrated confidences moves with slope and intercept."""
    return np.asarray((chance * (1 - chance)) @ design / len(chance))


def _variance(calibration: Calibration, gradient: Floats) -> float:
    """Of a mean with that gradient, from the uncertainty of the line (delta method)."""
    first, both, second = calibration.covariance
    return float(gradient @ np.array([[first, both], [both, second]]) @ gradient)


def _summary(value: float, margin: float, hurt: bool, calibration: Calibration) -> str:
    verdict = "below" if hurt else "in line with"
    return (
        f"Without labels, accuracy is estimated at {value:.3f} (give or take {margin:.3f}), "
        f"{verdict} the {calibration.accuracy:.3f} on {calibration.rows:,} held-out rows."
    )

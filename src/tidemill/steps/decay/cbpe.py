"""Confidence-based performance estimation: a classifier's accuracy without labels.

Answers with a calibrated confidence of 0.8 are right four times in five, so the mean calibrated
confidence of a window is its expected accuracy. Calibration is a line in the logits, fitted on
held-out rows with a prior that keeps it near the identity where those are few.

The estimate reacts when inputs move to regions where the model is unsure. It cannot detect that the
right answer to the same input has changed (concept drift); only labels show that, and
`tidemill.steps.decay.check` uses them.

Sources: confidence-based performance estimation, Kivimäki et al., JAIR 82 (2025); scaling of
logits, Platt, "Advances in Large Margin Classifiers" (1999) 61. See decision 086.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import special

from tidemill.policies import Decay

Floats = NDArray[np.float64]

#: Confidences are clipped this far from 0 and 1, where logits are unbounded.
CLIP = 1e-3

#: Precisions of the normal prior on the line: slope around 1, intercept around 0.
PRIOR = np.array([1.0, 0.3])
CENTRE = np.array([1.0, 0.0])

Z95 = 1.959964


class Calibration(msgspec.Struct, frozen=True):
    """P(right) = sigmoid(slope * logit(confidence) + intercept), fitted on `rows` held-out rows.

    Attributes:
        covariance: Of slope and intercept: (variance of slope, covariance, variance of intercept).
        accuracy: The accuracy on the held-out rows.
        estimated: The mean of their calibrated confidences.
        deviation: The standard deviation of their calibrated confidences.
        gradient: Derivatives of `estimated` with respect to slope and intercept.
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
    """The estimated accuracy of a window without labels, with a 95% interval.

    The interval covers chance in the window and in the calibration, not a changed relation between
    inputs and labels. `reference` is the accuracy on held-out rows; `degraded` says whether the
    estimate is below it beyond chance and tolerance.
    """

    value: float
    low: float
    high: float
    rows: int
    reference: float
    degraded: bool = msgspec.field(name="hurt")
    summary: str


def fit_calibration(confidence: Floats, right: NDArray[np.bool_]) -> Calibration | None:
    """Fit a calibration on held-out rows; None without any.

    Args:
        confidence: [rows] the probability given to the answered label.
        right: [rows] whether the answer was right.
    """
    if len(confidence) == 0:
        return None
    design = _design(np.asarray(confidence, dtype=np.float64))
    target = np.asarray(right, dtype=np.float64)
    line = _fit(design, target)
    covariance = np.linalg.inv(_curvature(design, line))
    probabilities = special.expit(design @ line)
    gradient = _gradient(design, probabilities)
    return Calibration(
        slope=float(line[0]),
        intercept=float(line[1]),
        covariance=(float(covariance[0, 0]), float(covariance[0, 1]), float(covariance[1, 1])),
        rows=len(target),
        accuracy=float(target.mean()),
        estimated=float(probabilities.mean()),
        deviation=float(probabilities.std()),
        gradient=(float(gradient[0]), float(gradient[1])),
    )


def estimate_accuracy(
    calibration: Calibration,
    confidence: Floats,
    *,
    alpha: float = Decay.alpha,
    tolerance: float = Decay.tolerance,
) -> AccuracyEstimate:
    """Estimate the accuracy of answers with these confidences.

    Args:
        calibration: From held-out rows.
        confidence: [rows] the probability given to each answered label; at least one row.
        alpha: Probability of calling an unchanged model degraded.
        tolerance: Accepted loss of accuracy against held-out rows.
    """
    design = _design(np.asarray(confidence, dtype=np.float64))
    probabilities = special.expit(design @ np.array([calibration.slope, calibration.intercept]))
    value, rows = float(probabilities.mean()), len(probabilities)
    gradient = _gradient(design, probabilities)
    sampling = float((probabilities * (1 - probabilities)).mean()) / rows
    error = np.sqrt(sampling + _variance(calibration, gradient))
    # Both means use the same line, so its error counts only where it changes their difference.
    apart = _variance(calibration, gradient - np.array(calibration.gradient))
    draws = float(probabilities.var()) / rows + calibration.deviation**2 / calibration.rows
    fall = calibration.estimated - value - tolerance
    degraded = bool(fall > special.ndtri(1 - alpha) * np.sqrt(draws + apart))
    return AccuracyEstimate(
        value=value,
        low=float(max(0.0, value - Z95 * error)),
        high=float(min(1.0, value + Z95 * error)),
        rows=rows,
        reference=calibration.accuracy,
        degraded=degraded,
        summary=_summary(value, float(Z95 * error), degraded, calibration),
    )


def calibrated(calibration: Calibration, confidence: Floats) -> Floats:
    """Convert each confidence to the probability that the answer is right [rows]."""
    line = np.array([calibration.slope, calibration.intercept])
    return np.asarray(special.expit(_design(confidence) @ line))


def _design(confidence: Floats) -> Floats:
    logits = special.logit(np.clip(confidence, CLIP, 1 - CLIP))
    return np.column_stack([logits, np.ones(len(logits))])


def _fit(design: Floats, target: Floats) -> Floats:
    """Newton's method with step halving; the loss is convex, so it converges."""
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
    probabilities = special.expit(design @ line)
    return np.asarray(
        design.T @ (design * (probabilities * (1 - probabilities))[:, None]) + np.diag(PRIOR)
    )


def _gradient(design: Floats, probabilities: Floats) -> Floats:
    """Gradient of the mean calibrated confidence with respect to slope and intercept."""
    return np.asarray((probabilities * (1 - probabilities)) @ design / len(probabilities))


def _variance(calibration: Calibration, gradient: Floats) -> float:
    """Variance of a mean with that gradient, from the uncertainty of the line (delta method)."""
    first, both, second = calibration.covariance
    return float(gradient @ np.array([[first, both], [both, second]]) @ gradient)


def _summary(value: float, margin: float, degraded: bool, calibration: Calibration) -> str:
    verdict = "below" if degraded else "in line with"
    return (
        f"Without labels, accuracy is estimated at {value:.3f} (± {margin:.3f}), "
        f"{verdict} the {calibration.accuracy:.3f} on {calibration.rows:,} held-out rows."
    )

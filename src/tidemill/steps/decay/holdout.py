"""A model's results on held-out rows, as its profile stores them for comparison with live rows.

Every metric has a standard error, because a figure from 30 held-out rows is itself uncertain. The
mean and deviation of row losses are for sequential detectors, the calibration for estimating a
classifier's accuracy from its confidences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemill.metrics import METRICS, metrics_of
from tidemill.signature import Label, Task
from tidemill.steps.decay.cbpe import Calibration, fit_calibration
from tidemill.steps.evaluation.bootstrap import EncodedPredictions, paired_bootstrap, point_value

Floats = NDArray[np.float64]

RESAMPLES = 400

#: Metrics other than those of labels are bootstrapped on at most this many rows, and the spread is
#: scaled to all of them.
BOOTSTRAP_ROWS = 5000


class MetricValue(msgspec.Struct, frozen=True):
    """A metric on held-out rows, with its standard error."""

    value: float
    error: float = 0.0
    rows: int = 0


class LossStatistics(msgspec.Struct, frozen=True):
    """Mean and standard deviation of row losses: 0 or 1 (right or wrong), or the absolute error."""

    mean: float
    deviation: float


class Holdout(msgspec.Struct, frozen=True):
    """A model's results on its held-out rows."""

    task: Task
    rows: int
    metrics: dict[str, MetricValue]
    losses: LossStatistics
    calibration: Calibration | None = None


def measure_holdout(
    task: Task,
    y: NDArray[Any],
    predicted: NDArray[Any],
    probabilities: Floats | None = None,
    labels: Sequence[Label] = (),
    *,
    seed: int = 0,
) -> Holdout:
    """Measure a model on its held-out rows.

    Args:
        y: [rows] the truth.
        predicted: [rows] labels or values.
        probabilities: [rows, labels]; None where the model has none.
        labels: The labels in the order of the probabilities; empty for regression.
        seed: Seed of the bootstrap.
    """
    names = metrics_of(task, probabilities=probabilities is not None)
    truth, answers = encode(task, y, predicted, probabilities, labels)
    measured = {name: _measure(name, truth, answers, seed) for name in names}
    losses = row_losses(task, y, predicted)
    calibration = None
    if probabilities is not None:
        calibration = fit_calibration(np.asarray(probabilities).max(axis=1), losses == 0)
    return Holdout(
        task=task,
        rows=len(y),
        metrics={name: value for name, value in measured.items() if np.isfinite(value.value)},
        losses=LossStatistics(float(losses.mean()), float(losses.std())),
        calibration=calibration,
    )


def read_holdout(profile: Mapping[str, Any]) -> Holdout | None:
    """Read the held-out results from a bundle's profile; None where it has none."""
    entry = profile.get("holdout")
    return None if entry is None else msgspec.convert(entry, Holdout)


def row_losses(task: Task, y: NDArray[Any], predicted: NDArray[Any]) -> Floats:
    """Compute each row's loss [rows]: 0 or 1 (right or wrong), or the absolute error."""
    if task == "classification":
        return np.asarray(np.asarray(y) != np.asarray(predicted), dtype=np.float64)
    error = np.asarray(y, dtype=np.float64) - np.asarray(predicted, dtype=np.float64)
    return np.abs(error)


def encode(
    task: Task,
    y: NDArray[Any],
    predicted: NDArray[Any],
    probabilities: Floats | None,
    labels: Sequence[Label],
) -> tuple[NDArray[Any], EncodedPredictions]:
    """Encode truth and predictions as indices into one list of labels, the model's own first."""
    if task == "regression":
        values = np.asarray(predicted, dtype=np.float64)
        return np.asarray(y, dtype=np.float64), EncodedPredictions(values)
    index = {label: position for position, label in enumerate(labels)}
    found = [index.setdefault(v, len(index)) for v in [*np.asarray(y).tolist()]]
    said = [index.setdefault(v, len(index)) for v in [*np.asarray(predicted).tolist()]]
    answers = EncodedPredictions(np.array(said), probabilities, tuple(range(len(labels))))
    return np.array(found), answers


def bootstrap_metric(
    metric: str, truth: NDArray[Any], answers: EncodedPredictions, *, resamples: int, seed: int
) -> Floats:
    """Bootstrap a metric; samples in which it is not defined are left out."""
    rows = len(truth)
    few_cells = METRICS[metric].uses_labels
    if few_cells or rows <= BOOTSTRAP_ROWS:
        return _defined(metric, truth, answers, resamples, seed)
    chosen = np.random.default_rng(seed).choice(rows, BOOTSTRAP_ROWS, replace=False)
    part, said = truth[chosen], _take(answers, chosen)
    found = _defined(metric, part, said, resamples, seed)
    value, centre = point_value(metric, truth, answers), point_value(metric, part, said)
    return np.asarray(value + (found - centre) * np.sqrt(BOOTSTRAP_ROWS / rows))


def _defined(
    metric: str, truth: NDArray[Any], answers: EncodedPredictions, resamples: int, seed: int
) -> Floats:
    found, _ = paired_bootstrap(metric, truth, answers, answers, resamples=resamples, seed=seed)
    return found[np.isfinite(found)]


def _take(answers: EncodedPredictions, rows: NDArray[np.int64]) -> EncodedPredictions:
    taken = None if answers.probabilities is None else answers.probabilities[rows]
    return EncodedPredictions(answers.predicted[rows], taken, answers.known)


def _measure(
    metric: str, truth: NDArray[Any], answers: EncodedPredictions, seed: int
) -> MetricValue:
    value = point_value(metric, truth, answers)
    if not np.isfinite(value) or len(truth) < 2:
        return MetricValue(value, rows=len(truth))
    found = bootstrap_metric(metric, truth, answers, resamples=RESAMPLES, seed=seed)
    error = float(found.std()) if found.size else 0.0
    if METRICS[metric].uses_labels:
        error = max(error, _least_error(value, len(truth)))
    return MetricValue(value, error, len(truth))


def _least_error(share: float, rows: int) -> float:
    """The standard error of a share with one more row of either outcome.

    Thirty right answers of thirty have no bootstrap variance, but do not prove perfection.
    """
    return float(np.sqrt(smoothed_variance(share, rows) / rows))


def smoothed_variance(share: float, rows: int) -> float:
    """Variance of one row's correctness, after adding one row of either outcome."""
    smoothed = (share * rows + 1) / (rows + 2)
    return smoothed * (1 - smoothed)

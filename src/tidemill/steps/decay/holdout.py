"""What a profile remembers of a model's held-out rows: what live rows are later compared with.

Each metric with its standard error, because a figure from 30 held-out rows is itself uncertain;
what one row's loss is like, for detectors that watch losses as they come; and, for classifiers,
what confidences are worth.
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
from tidemill.steps.gate.bootstrap import EncodedPredictions, paired_bootstrap, point_value

Floats = NDArray[np.float64]

RESAMPLES = 400

#: Losses are bootstrapped on at most so many rows, and the spread scaled to all of them.
BOOTSTRAP_ROWS = 5000


class MetricValue(msgspec.Struct, frozen=True):
    """A metric on so many held-out rows, and the standard error of that figure."""

    value: float
    error: float = 0.0
    rows: int = 0


class LossStatistics(msgspec.Struct, frozen=True):
    """One row's loss: 0 or 1 (answered right or wrong), or the absolute error."""

    mean: float
    deviation: float


class Holdout(msgspec.Struct, frozen=True):
    """A model on its held-out rows."""

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
    """What a profile keeps of the held-out rows.

    Args:
        task: What the model does.
        y: What is true [rows].
        predicted: What was answered [rows].
        probabilities: [rows, labels]; None where the model gives none.
        labels: The labels in the order of the probabilities; empty for regression.
        seed: Fixes the bootstrap.
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
    """What a bundle's profile remembers of the held-out rows; None where it kept nothing."""
    entry = profile.get("holdout")
    return None if entry is None else msgspec.convert(entry, Holdout)


def row_losses(task: Task, y: NDArray[Any], predicted: NDArray[Any]) -> Floats:
    """Each row's loss [rows]: 1 for a wrong label, or the absolute error."""
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
    """Truth and answers with labels as indices into one list, the model's own labels first."""
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
    """Bootstrap draws of a metric; those where it is not defined are left out."""
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
    chances = answers.probabilities
    return EncodedPredictions(
        answers.predicted[rows], None if chances is None else chances[rows], answers.known
    )


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
    """The standard error of a share with one row more of either outcome.

    Thirty right answers out of thirty leave a bootstrap nothing to vary, yet prove no perfection.
    """
    return float(np.sqrt(smoothed_variance(share, rows) / rows))


def smoothed_variance(share: float, rows: int) -> float:
    """The variance of one row's being right, with one row more of either outcome."""
    smoothed = (share * rows + 1) / (rows + 2)
    return smoothed * (1 - smoothed)

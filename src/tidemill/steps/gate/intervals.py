"""Bootstrap confidence intervals of a version's metrics.

Percentile intervals (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). They
show how uncertain one version's metrics are, not whether one version is better than another: two
intervals may overlap widely although the difference is certain. The gate compares versions on the
same rows.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidemill.project import Task
from tidemill.steps.evaluation.bootstrap import EncodedPredictions, bootstrap
from tidemill.steps.gate.gate import VersionEvidence, all_metrics, encode_labels

Interval = tuple[float, float]

CONFIDENCE = 0.95
SEED = 20_240_229
#: Numbers of resamples; fewer for very many rows, whose intervals are narrow anyway.
MAX_RESAMPLES, MIN_RESAMPLES = 1_000, 200
MAX_DRAWN_ROWS = 50_000_000
#: Rows x curves above which ROC AUC, which is slow to resample, gets no interval.
MAX_CURVE_ROWS = 20_000


class Intervals(msgspec.Struct, frozen=True):
    """Intervals by metric, and how they were computed; can be encoded as JSON."""

    rows: int
    resamples: int
    intervals: dict[str, Interval]
    confidence: float = CONFIDENCE
    seed: int = SEED


def metric_intervals(task: Task, y: npt.NDArray[Any], outcome: VersionEvidence) -> Intervals:
    """Compute the interval of every metric that the predictions allow.

    Args:
        y: True labels or values [rows].
        outcome: The predictions.
    """
    truth, (predictions,) = encode_labels(y, [outcome], task)
    resamples = min(MAX_RESAMPLES, max(MIN_RESAMPLES, MAX_DRAWN_ROWS // max(len(y), 1)))
    names = list(all_metrics(task, truth, predictions))
    curves = 1 if len(predictions.known) == 2 else len(predictions.known)
    if len(y) * curves > MAX_CURVE_ROWS:
        names = [name for name in names if name != "roc_auc"]
    found = {name: interval(name, truth, predictions, resamples) for name in names}
    known = {name: bounds for name, bounds in found.items() if bounds is not None}
    return Intervals(len(y), resamples, known)


def interval(
    metric: str,
    y: npt.NDArray[Any],
    predictions: EncodedPredictions,
    resamples: int = MAX_RESAMPLES,
) -> Interval | None:
    """The interval of one metric; None if it is undefined in 5% or more of the samples.

    ROC AUC is undefined in samples without rows of a class.
    """
    values = bootstrap(metric, y, predictions, resamples=resamples, seed=SEED)
    values = values[np.isfinite(values)]
    if len(values) <= 0.95 * resamples:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)

"""How far each metric of a version would move on other held-out rows of the same kind.

Percentiles of the bootstrap (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter
13). They say how sure one version's figure is. Whether one version is better than another is
another question, which the gate asks of both on the same rows: two intervals may overlap widely
while the difference is certain.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidemill.project import Task
from tidemill.steps.gate.bootstrap import EncodedPredictions, bootstrap
from tidemill.steps.gate.gate import VersionEvidence, all_metrics, encode_labels

Interval = tuple[float, float]

CONFIDENCE = 0.95
SEED = 20_240_229
#: Resamples: so many, less for very many rows, whose intervals are narrow anyway.
MAX_RESAMPLES, MIN_RESAMPLES = 1_000, 200
MAX_DRAWN_ROWS = 50_000_000
#: Rows x curves of ROC AUC, which is no function of sums; beyond, it has no interval.
MAX_CURVE_ROWS = 20_000


class Intervals(msgspec.Struct, frozen=True):
    """Bounds by metric, and what they were made of; plain values, fit for JSON."""

    rows: int
    resamples: int
    intervals: dict[str, Interval]
    confidence: float = CONFIDENCE
    seed: int = SEED


def metric_intervals(task: Task, y: npt.NDArray[Any], outcome: VersionEvidence) -> Intervals:
    """The interval of every metric that the answers allow.

    Args:
        y: The truth [rows].
        outcome: What was answered.
    """
    truth, (answers,) = encode_labels(y, [outcome], task)
    resamples = min(MAX_RESAMPLES, max(MIN_RESAMPLES, MAX_DRAWN_ROWS // max(len(y), 1)))
    names = list(all_metrics(task, truth, answers))
    curves = 1 if len(answers.known) == 2 else len(answers.known)
    if len(y) * curves > MAX_CURVE_ROWS:
        names = [name for name in names if name != "roc_auc"]
    found = {name: interval(name, truth, answers, resamples) for name in names}
    known = {name: bounds for name, bounds in found.items() if bounds is not None}
    return Intervals(len(y), resamples, known)


def interval(
    metric: str, y: npt.NDArray[Any], answers: EncodedPredictions, resamples: int = MAX_RESAMPLES
) -> Interval | None:
    """The bounds of one metric; None where one sample in twenty or more does not define it.

    That is so of ROC AUC where a class has hardly any rows.
    """
    values = bootstrap(metric, y, answers, resamples=resamples, seed=SEED)
    values = values[np.isfinite(values)]
    if len(values) <= 0.95 * resamples:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)

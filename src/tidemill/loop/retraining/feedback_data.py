"""Collect a model's labelled predictions to train on, and split off the newest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.project import Project
from tidemill.signature import Task
from tidemill.steps.retraining.contest import error_scale
from tidemill.steps.retraining.feedback_data import FeedbackData, cut_at
from tidemill.steps.retraining.training_windows import held_out_rows
from tidemill.stores.predictions.predictions import Predictions

#: Fewer labelled rows are not trained on: what they show may be chance.
MIN_ROWS = 40
#: Newest labelled rows that are trained on.
MAX_ROWS = 500_000
#: Rows before the cut from which the champion's usual error is taken.
SCALE_ROWS = 500


@dataclass(frozen=True)
class RetrainingData:
    """What a retraining starts from.

    Attributes:
        feedback: The labelled rows.
        scale: The absolute error that counts as a loss of 1 in the contest; 1 for classifiers.
        since: Labelled rows since the change; None where no change is known.
    """

    feedback: FeedbackData
    scale: float = 1.0
    since: int | None = None


def collect_feedback(
    predictions: Predictions, project: Project, changed: float | None
) -> RetrainingData | None:
    """Collect the labelled rows of a model; None where there are too few.

    Args:
        changed: The change point, in seconds since the epoch; None where no change is known. More
            of the newest rows are held out where more have arrived since.
    """
    window = predictions.window(project.name, labelled=True, last=MAX_ROWS)
    kept = window.stored
    if window.frame is None or int(kept.sum()) < MIN_ROWS:
        return None
    task: Task = window.signature.task if window.signature is not None else "classification"
    actual, times = _typed(window.actual[kept], task), window.times[kept]
    since = None if changed is None else int((times >= changed).sum())
    held_out = held_out_rows(len(times) if since is None else since)
    cut = cut_at(times, held_out)
    feedback = FeedbackData(window.frame[kept], actual, times, cut, changed)
    if task == "classification":
        return RetrainingData(feedback, 1.0, since)
    errors = np.abs(actual - _typed(window.outputs[kept], task))
    return RetrainingData(feedback, _scale(errors, feedback), since)


def _scale(errors: npt.NDArray[np.float64], feedback: FeedbackData) -> float:
    """The usual error before the cut, and since the change if rows are left."""
    times, changed = feedback.times, feedback.changed
    before = np.flatnonzero(times < feedback.cut)
    if changed is not None and (times[before] >= changed).any():
        before = before[times[before] >= changed]
    return error_scale(errors[before[-SCALE_ROWS:]])


def _typed(values: npt.NDArray[Any], task: Task) -> npt.NDArray[Any]:
    return values.astype(np.float64) if task == "regression" else values

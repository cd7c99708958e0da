"""Gathers what labelled predictions have to teach: rows, where things changed, what to hold out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.policies import Decay
from tidemill.project import Project, Task
from tidemill.steps.decay.autocorrelation import AUTOCORRELATION_ROWS, robust_autocorrelation_time
from tidemill.steps.decay.holdout import Holdout, row_losses
from tidemill.steps.decay.loss_detector import loss_detector, retained_champion_detector
from tidemill.steps.decay.page_hinkley import PageHinkley
from tidemill.steps.retraining.contest import error_scale
from tidemill.steps.retraining.feedback_data import FeedbackData, cut_at
from tidemill.steps.retraining.training_windows import held_out_rows
from tidemill.stores.predictions.predictions import Predictions
from tidemill.stores.predictions.windows import Window
from tidemill.stores.retraining.contests import ContestRow

#: Fewer labelled rows than this teach nothing that could be told from chance.
FEWEST_ROWS = 40
#: No more labelled rows than this are learned from: the newest.
MOST_ROWS = 500_000
#: The champion's usual error is that on so many rows before the cut.
SCALE_ROWS = 500


@dataclass(frozen=True)
class RetrainingData:
    """What a retraining begins from.

    Attributes:
        lessons: None where there are too few labelled rows to learn from.
        scale: The error that counts as a loss of 1 in the contest to come.
        since: How many labelled rows came since the change; None where nothing says when it was.
    """

    lessons: FeedbackData | None
    scale: float = 1.0
    since: int | None = None


def gather_retraining_data(
    predictions: Predictions,
    project: Project,
    *,
    champion: str,
    holdout: Holdout | None,
    newest: ContestRow | None,
    suspicious: bool,
    changed: float | None = None,
) -> RetrainingData:
    """The labelled rows of a model, with the change and the cut that they suggest.

    Args:
        champion: The version that serves; its losses say when things changed.
        holdout: What it did on held-out rows.
        newest: The model's newest contest. A champion that won it was made after a change, which
            is remembered; what came before it ended is no news.
        suspicious: Whether something said that the champion got worse.
        changed: When things changed, where that was found before; None looks for it.
    """
    window = predictions.window(project.name, labelled=True, last=MOST_ROWS)
    kept = window.stored
    if window.frame is None or int(kept.sum()) < FEWEST_ROWS:
        return RetrainingData(None)
    task: Task = window.signature.task if window.signature is not None else "classification"
    actual, times = _plain(window.actual[kept], task), window.times[kept]
    if changed is None:
        changed = _change(window, task, champion, holdout, newest, project.decay, suspicious)
    since = None if changed is None else int((times >= changed).sum())
    held = held_out_rows(len(times) if since is None else since)
    lessons = FeedbackData(window.frame[kept], actual, times, cut_at(times, held), changed)
    if task == "classification":
        return RetrainingData(lessons, 1.0, since)
    before = np.flatnonzero(times < lessons.cut)
    if changed is not None and (times[before] >= changed).any():
        before = before[times[before] >= changed]
    before = before[-SCALE_ROWS:]
    answers = _plain(window.outputs[kept], task)
    scale = error_scale(np.abs(actual[before] - answers[before]))
    return RetrainingData(lessons, scale, since)


def _change(
    window: Window,
    task: Task,
    champion: str,
    holdout: Holdout | None,
    newest: ContestRow | None,
    decay: Decay,
    suspicious: bool,
) -> float | None:
    """When things changed, by the losses of the champion since its last contest ended.

    Where the detector alarms, it is where the run above expectation began; where something else
    raised suspicion, the present run counts all the same.
    """
    known = (
        newest is not None and newest.winner is not None and newest.resulting_champion == champion
    )
    remembered = newest.changed if newest is not None and known else None
    if holdout is None:
        return remembered
    ended = (newest.closed or 0.0) if newest is not None else 0.0
    own = np.flatnonzero((window.versions == champion) & (window.label_times > ended))
    if own.size == 0:
        return remembered
    losses = row_losses(task, _plain(window.actual[own], task), _plain(window.outputs[own], task))
    lately = slice(-AUTOCORRELATION_ROWS, None)
    spells = row_losses(
        task, _plain(window.actual[lately], task), _plain(window.outputs[lately], task)
    )
    detector = loss_detector(holdout, decay, tau=robust_autocorrelation_time(spells))
    if newest is not None and newest.closed is not None and newest.winner is None:
        detector = _accepting(detector, window, task, champion, newest, decay)
    detector.update(losses)
    if (detector.alarm or suspicious) and detector.run_start < own.size:
        return float(window.times[own[detector.run_start]])
    return remembered


def _accepting(
    detector: PageHinkley, window: Window, task: Task, champion: str, kept: ContestRow, decay: Decay
) -> PageHinkley:
    """What the champion lost in a contest that it came out of is the usual since then."""
    before = (window.versions == champion) & (window.label_times <= (kept.closed or 0.0))
    rows = np.flatnonzero(before)
    rows = rows[np.argsort(window.label_times[rows], kind="stable")][-max(kept.rows, 1) :]
    losses = row_losses(task, _plain(window.actual[rows], task), _plain(window.outputs[rows], task))
    return retained_champion_detector(detector, task, losses, decay)


def _plain(values: npt.NDArray[Any], task: Task) -> npt.NDArray[Any]:
    return values.astype(np.float64) if task == "regression" else values

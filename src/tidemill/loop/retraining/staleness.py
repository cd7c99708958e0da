"""The staleness check: is a model of the champion's kind, trained on newer rows, clearly better?

Nothing is tracked or registered. The scheduler (`tidemill.loop.retraining.scheduler`) submits the
check as a job and opens a trigger if the champion is out of date.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tidemill.loop.retraining.feedback_data import SCALE_ROWS
from tidemill.loop.retraining.jobs import StalenessResult
from tidemill.loop.training.trial import fit_and_evaluate
from tidemill.project import Candidate, Project
from tidemill.steps.data.clean import CleanedData
from tidemill.steps.data.prepare import PreparedData
from tidemill.steps.retraining.contest import bounded_losses, error_scale
from tidemill.steps.retraining.feedback_data import FeedbackData, clean_with_feedback
from tidemill.steps.retraining.staleness import is_outdated
from tidemill.steps.search.search import Trial
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import CHAMPION, ModelVersion
from tidemill.stores.predictions.predictions import Predictions


@dataclass(frozen=True)
class StalenessCheck:
    """Compares champions with models trained on newer rows.

    Attributes:
        run_params: Returns the logged parameters of a run by its id.
    """

    registry: Registry
    predictions: Predictions
    run_params: Callable[[str], Mapping[str, str]]

    def run(self, project: Project, size: int) -> StalenessResult:
        """Train on `size` labelled rows before the newest `size // 2`, and compare on those."""
        judged = size // 2
        champion = self.registry.by_alias(project.name, CHAMPION)
        window = self.predictions.window(project.name, labelled=True, last=size + judged)
        kept = window.stored
        if champion is None or window.frame is None or int(kept.sum()) < size + judged // 2:
            return StalenessResult(reason="There are too few labelled rows.")
        task = window.signature.task if window.signature is not None else "classification"
        regression = task == "regression"
        actual = window.actual[kept].astype(np.float64) if regression else window.actual[kept]
        answers = window.outputs[kept].astype(np.float64) if regression else window.outputs[kept]
        own = (window.versions[kept] == champion.number)[-judged:]
        feedback = FeedbackData(window.frame[kept], actual, window.times[kept], float("inf"))
        cleaned, first = clean_with_feedback(project, feedback)
        try:
            trial = self._trial(project, champion)
            newer = fit_and_evaluate(trial, project, _data(cleaned, first, judged)).predicted.values
        except Exception as error:  # from the model's own code; a training reports it in its run
            return StalenessResult(reason=f"{type(error).__name__}: {error}")
        scale = 1.0
        if regression:
            before = slice(-judged - SCALE_ROWS, -judged)
            scale = error_scale(np.abs(actual[before] - answers[before]))
        truth = actual[-judged:]
        old_losses = bounded_losses(task, truth, answers[-judged:], scale=scale)[own]
        new_losses = bounded_losses(task, truth, np.asarray(newer), scale=scale)[own]
        return StalenessResult(
            outdated=bool(own.any()) and is_outdated(old_losses, new_losses, project.contest),
            champion=champion.number,
            rows=int(own.sum()),
            champion_loss=float(old_losses.mean()) if own.any() else None,
            newer_loss=float(new_losses.mean()) if own.any() else None,
        )

    def _trial(self, project: Project, champion: ModelVersion) -> Trial:
        """The champion's candidate and settings; the first candidate where it is unknown."""
        names = [candidate.name for candidate in project.candidates]
        name = champion.candidate if champion.candidate in names else names[0]
        logged: Mapping[str, str] = {}
        if champion.run_id is not None and name == champion.candidate:
            logged = self.run_params(champion.run_id)
        return Trial(name, 1, 1, parse_settings(project.candidate(name), logged))


def _data(cleaned: CleanedData, first: int, judged: int) -> PreparedData:
    """The labelled rows: the newest held out, those before them to train on."""
    frame = cleaned.frame.iloc[first:]
    return PreparedData(
        source="labelled predictions",
        task=cleaned.task,
        inputs=cleaned.inputs,
        kinds=cleaned.kinds,
        dates=cleaned.dates,
        frame=cleaned.frame,
        train=frame.iloc[:-judged],
        test=frame.iloc[-judged:],
        warnings=(),
        fingerprint="",
        test_fingerprint="",
    )


def parse_settings(candidate: Candidate, logged: Mapping[str, str]) -> dict[str, Any]:
    """Parse the searched parameters of a run, which MLflow keeps as texts."""
    found = {}
    for name, values in candidate.search.items():
        if name not in logged:
            continue
        equal = [value for value in values if str(value) == logged[name]]
        found[name] = equal[0] if equal else _literal(logged[name])
    return found


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text

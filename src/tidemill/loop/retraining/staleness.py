"""Sparring as a job: whether a model of the champion's kind from newer rows is clearly better.

Nothing is tracked or registered; what comes of it is the job's result, and a trigger where the
champion is out of date (`tidemill.loop.retraining.scheduler`).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import numpy as np

from tidemill.loop.retraining.feedback_data import SCALE_ROWS
from tidemill.loop.training.trial import fit_and_evaluate
from tidemill.platform import Platform
from tidemill.project import Candidate, Project
from tidemill.steps.data.clean import CleanedData
from tidemill.steps.data.prepare import PreparedData
from tidemill.steps.retraining.contest import bounded_losses, error_scale
from tidemill.steps.retraining.feedback_data import FeedbackData, clean_with_feedback
from tidemill.steps.retraining.staleness import is_outdated
from tidemill.steps.search.search import Trial
from tidemill.stores.jobs.jobs import Job
from tidemill.stores.mlflow.versions import CHAMPION, ModelVersion
from tidemill.worker.job_kinds import JobReport, ReportProgress, load_job_project


def run_staleness_check(platform: Platform, job: Job, report: ReportProgress) -> dict[str, Any]:
    """Train the partner on `params["rows"]` rows before the newest half as many, and compare.

    Returns:
        `is_outdated`, and both mean losses on the rows that were judged.
    """
    project = load_job_project(job)
    size = int(job.params["rows"])
    judged = size // 2
    champion = platform.registry.by_alias(project.name, CHAMPION)
    window = platform.predictions.window(project.name, labelled=True, last=size + judged)
    kept = window.stored
    if champion is None or window.frame is None or int(kept.sum()) < size + judged // 2:
        return {"outdated": False, "reason": "There are too few labelled rows."}
    report(JobReport(20.0, "fit"))
    task = window.signature.task if window.signature is not None else "classification"
    regression = task == "regression"
    actual = window.actual[kept].astype(np.float64) if regression else window.actual[kept]
    answers = window.outputs[kept].astype(np.float64) if regression else window.outputs[kept]
    own = (window.versions[kept] == champion.number)[-judged:]
    lessons = FeedbackData(window.frame[kept], actual, window.times[kept], float("inf"))
    cleaned, first = clean_with_feedback(project, lessons)
    try:
        partner = fit_and_evaluate(
            _trial(platform, project, champion), project, _data(cleaned, first, judged)
        ).predicted.values
    except Exception as error:  # the model's own code: an ordinary training says so in its run
        return {"outdated": False, "reason": f"{type(error).__name__}: {error}"}
    scale = 1.0
    if regression:
        before = slice(-judged - SCALE_ROWS, -judged)
        scale = error_scale(np.abs(actual[before] - answers[before]))
    truth = actual[-judged:]
    mine = bounded_losses(task, truth, answers[-judged:], scale=scale)[own]
    theirs = bounded_losses(task, truth, np.asarray(partner), scale=scale)[own]
    return {
        "outdated": bool(own.any()) and is_outdated(mine, theirs, project.contest),
        "champion": champion.number,
        "rows": int(own.sum()),
        "champion_loss": float(mine.mean()) if own.any() else None,
        "partner_loss": float(theirs.mean()) if own.any() else None,
    }


def _data(cleaned: CleanedData, first: int, judged: int) -> PreparedData:
    """The labelled rows: the newest ones to judge on, those before them to learn from."""
    frame = cleaned.frame.iloc[first:]
    return PreparedData(
        source="labelled predictions",
        task=cleaned.task,
        inputs=cleaned.inputs,
        kinds=cleaned.kinds,
        frame=cleaned.frame,
        train=frame.iloc[:-judged],
        test=frame.iloc[-judged:],
        warnings=(),
        fingerprint="",
        test_fingerprint="",
    )


def _trial(platform: Platform, project: Project, champion: ModelVersion) -> Trial:
    """The champion's candidate with its settings; the first candidate where it is not known."""
    names = [candidate.name for candidate in project.candidates]
    name = champion.candidate if champion.candidate in names else names[0]
    found: Mapping[str, str] = {}
    if champion.run_id is not None and name == champion.candidate:
        found = platform.tracking.get_run(champion.run_id).data.params
    return Trial(name, 1, 1, settings_of(project.candidate(name), found))


def settings_of(candidate: Candidate, logged: Mapping[str, str]) -> dict[str, Any]:
    """What was searched over, as values again; MLflow keeps texts."""
    found = {}
    for name, values in candidate.search.items():
        if name not in logged:
            continue
        among = [value for value in values if str(value) == logged[name]]
        found[name] = among[0] if among else _literal(logged[name])
    return found


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text

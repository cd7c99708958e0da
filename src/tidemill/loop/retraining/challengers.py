"""Train challengers on several training windows of the project's rows and the labelled predictions.

The newest labelled rows are held out. Every candidate is searched on all other rows; the two best
are then fitted, with their best settings, on every training window. The models that are best on the
held-out rows are registered with a bundle each, to compete with the champion
(`tidemill.loop.retraining.contest`).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.errors import ExportError, ProjectError
from tidemill.loop.operations.signals import exit_on_sigterm
from tidemill.loop.training.progress import OnProgress, Reporter
from tidemill.loop.training.provenance import origin_tags
from tidemill.loop.training.publish import PublishedVersion, publish
from tidemill.loop.training.train import NO_OPTIONS, try_candidate
from tidemill.loop.training.trial import KIND_TAG, Sweep, TrialOutcome, run_trial
from tidemill.metrics import METRICS
from tidemill.project import Project
from tidemill.steps.data.clean import CleanedData
from tidemill.steps.data.fingerprint import fingerprint
from tidemill.steps.data.prepare import PreparedData
from tidemill.steps.retraining.feedback_data import FeedbackData, clean_with_feedback
from tidemill.steps.retraining.training_windows import TrainingWindow, training_windows
from tidemill.steps.search.search import Search, SearchOptions, Trial, plan_searches
from tidemill.stores.mlflow.tracking import NOTE_TAG, Tracking

logger = logging.getLogger(__name__)

WINDOW_TAG, CUT_TAG = "tidemill.window", "tidemill.cut"
RETRAIN_FILE = "retraining.json"

#: Candidates that are fitted on every training window. The others are fitted on all rows only, as
#: fits take most of a retraining's time.
LEADING = 2


@dataclass(frozen=True)
class TrainedChallenger:
    """A registered challenger: its training window, its run, and its metrics on held-out rows."""

    version: str
    window: str
    candidate: str
    run_id: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class TrainedChallengers:
    """The result of the training; the best challenger comes first."""

    run_id: str
    metric: str
    windows: tuple[str, ...]
    challengers: tuple[TrainedChallenger, ...]


def train_challengers(
    project: Project,
    feedback: FeedbackData,
    *,
    tracking_uri: str,
    registry_uri: str | None = None,
    artifact_root: Path | str | None = None,
    overrides: Mapping[str, Mapping[str, Any]] = NO_OPTIONS.overrides,
    trials: int | None = None,
    only: Sequence[str] = (),
    on_progress: OnProgress = lambda progress: None,
) -> TrainedChallengers:
    """Fit candidates on every training window, and register the best models.

    Args:
        feedback: The labelled predictions, and from which time on they are held out.
        tracking_uri, registry_uri, artifact_root, overrides, trials, only, on_progress: As in
            `tidemill.loop.training.train.train`.

    Raises:
        DataError: The data cannot be used, or the predictions lack a column.
        ProjectError: An unknown candidate, or every candidate failed on every window.
        ExportError: No trained model can be served.
        UnavailableError: MLflow cannot be reached.
    """
    report = Reporter(on_progress)
    report.loading()
    tracking = Tracking(tracking_uri, registry_uri, artifact_root=artifact_root)
    tracking.experiment(project.name)
    cleaned, own = clean_with_feedback(project, feedback)
    end = own + feedback.learned
    windows = _windows(project, cleaned, feedback, own)
    whole = _part(project, cleaned, TrainingWindow("all", 0, end))
    metric = _metric(project, whole)
    maximize = METRICS[metric].higher_is_better
    searches = plan_searches(project, SearchOptions(overrides, trials, only), maximize=maximize)
    total = sum(search.total for search in searches.values())
    report.planned(total + (len(windows) - 1) * len(searches), metric)
    tags = {**origin_tags(project, whole), KIND_TAG: "sweep", CUT_TAG: f"{feedback.cut:.6f}"}
    with exit_on_sigterm(), tracking.run(project.name, "retrain", tags=tags) as run:
        common = Sweep(project, whole, metric, tracking, run, tags)
        found = _try_windows(common, cleaned, windows, searches, report)
        published = _publish(found, project.contest.challengers, report)
        result = TrainedChallengers(
            run.id,
            metric,
            tuple(window.name for window in windows),
            tuple(_challenger(sweep, each) for sweep, each in published),
        )
        _record(common, result)
    report.done()
    return result


def _windows(
    project: Project, cleaned: CleanedData, feedback: FeedbackData, own: int
) -> tuple[TrainingWindow, ...]:
    """The training windows, without those that have only one class."""
    since = feedback.since
    found = training_windows(
        own + feedback.learned,
        since=None if since is None else own + since,
    )
    target = cleaned.frame[project.target]
    return tuple(
        window
        for window in found
        if cleaned.task == "regression" or target.iloc[window.rows()].nunique() > 1
    )


def _part(project: Project, cleaned: CleanedData, window: TrainingWindow) -> PreparedData:
    """The data with the window's rows to train on and the newest rows held out."""
    train = cleaned.frame.iloc[window.rows()]
    test = cleaned.frame.iloc[window.end :]
    return PreparedData(
        source=f"the project's rows and labelled predictions: {window.name}",
        task=cleaned.task,
        inputs=cleaned.inputs,
        kinds=cleaned.kinds,
        dates=cleaned.dates,
        frame=cleaned.frame,
        train=train,
        test=test,
        warnings=cleaned.warnings,
        fingerprint=fingerprint(train),
        test_fingerprint=fingerprint(test),
        signature_rows=cleaned.frame.iloc[: window.end],
    )


def _metric(project: Project, data: PreparedData) -> str:
    """The metric that ranks models; few held-out rows may not define the gate's metric."""
    if data.task == "classification" and data.test[project.target].nunique() < 2:
        return "accuracy"
    return project.gate.deciding_metric(data.task)


def _try_windows(
    common: Sweep,
    cleaned: CleanedData,
    windows: Sequence[TrainingWindow],
    searches: Mapping[str, Search],
    report: Reporter,
) -> list[tuple[Sweep, TrialOutcome]]:
    """Each window's best outcome, the best window first.

    Raises:
        ProjectError: No candidate could be trained; the message has each reason once.
    """
    settings: dict[str, Trial] = {}
    values: dict[str, float] = {}
    sign = METRICS[common.metric].sign
    best, reasons = [], dict[str, None]()
    for window in windows:
        sweep = _narrowed(common, cleaned, window)
        outcomes = []
        for candidate, search in searches.items():
            if candidate in settings and candidate not in _leading(values):
                report.fitted(None)
            elif candidate in settings:
                trial = replace(settings[candidate], window=window.name)
                outcomes.append(_try_one(trial, sweep, report))
            else:
                tried = try_candidate(candidate, search, sweep, report, window.name)
                kept = next((o for o in tried if o.trained is not None), tried[-1])
                settings[candidate] = kept.trial
                values[candidate] = -math.inf if kept.value is None else sign * kept.value
                outcomes.append(kept)
        fine = [o for o in outcomes if o.value is not None and o.trained is not None]
        reasons |= dict.fromkeys(f"{o.trial.name}: {o.error}" for o in outcomes if o.error)
        if fine:
            best.append((sweep, _best(fine, common.metric)))
    if not best:
        raise ProjectError(
            f"No candidate of '{common.project.name}' could be retrained. {'; '.join(reasons)}",
            field="candidates",
        )
    better = METRICS[common.metric].higher_is_better
    return sorted(best, key=lambda pair: pair[1].value or 0.0, reverse=better)


def _leading(values: Mapping[str, float]) -> list[str]:
    """The candidates fitted on the other windows too: those that were best on all rows."""
    return sorted(values, key=lambda name: values[name], reverse=True)[:LEADING]


def _try_one(trial: Trial, sweep: Sweep, report: Reporter) -> TrialOutcome:
    report.fitting(trial.candidate)
    outcome = run_trial(trial, sweep, report.within)
    report.fitted(outcome.value)
    return outcome


def _best(outcomes: Sequence[TrialOutcome], metric: str) -> TrialOutcome:
    sign = METRICS[metric].sign
    return max(outcomes, key=lambda outcome: sign * (outcome.value or 0.0))


def _narrowed(common: Sweep, cleaned: CleanedData, window: TrainingWindow) -> Sweep:
    """The sweep of one window; tags name the window on its runs and version."""
    data = _part(common.project, cleaned, window)
    marks = {WINDOW_TAG: window.name, CUT_TAG: common.tags[CUT_TAG]}
    # The newest rows are held out, so there is no split by content to record.
    project = replace(common.project, shuffle=False, tags={**common.project.tags, **marks})
    fingerprints = {
        "tidemill.data_source": data.source,
        "tidemill.data_fingerprint": data.fingerprint,
        "tidemill.test_fingerprint": data.test_fingerprint,
    }
    return replace(
        common, project=project, data=data, tags={**common.tags, **marks, **fingerprints}
    )


def _publish(
    ranked: Sequence[tuple[Sweep, TrialOutcome]], most: int, report: Reporter
) -> list[tuple[Sweep, PublishedVersion]]:
    """Register the best models that can be served and differ in their predictions.

    Raises:
        ExportError: No model can be served.
    """
    done: list[tuple[Sweep, PublishedVersion]] = []
    reasons, known = [], list[Any]()
    for sweep, outcome in ranked:
        assert outcome.trained is not None
        answers = outcome.trained.predicted
        if len(done) == most:
            break
        if any(np.array_equal(answers.values, other) for other in known):
            continue
        try:
            done.append((sweep, publish([outcome], sweep, report)))
            known.append(answers.values)
        except ExportError as error:
            reasons.append(str(error))
    if not done:
        raise ExportError(" ".join(reasons))
    return done


def _challenger(sweep: Sweep, published: PublishedVersion) -> TrainedChallenger:
    outcome = published.outcome
    return TrainedChallenger(
        version=published.version,
        window=sweep.tags[WINDOW_TAG],
        candidate=outcome.trial.candidate,
        run_id=outcome.run_id,
        metrics=outcome.metrics,
    )


def _record(sweep: Sweep, result: TrainedChallengers) -> None:
    """Record windows and challengers on the parent run."""
    document = {
        "model": sweep.project.name,
        "metric": result.metric,
        "windows": result.windows,
        "challengers": [
            {**vars(each), "metrics": dict(each.metrics)} for each in result.challengers
        ],
    }
    sweep.run.log_files({RETRAIN_FILE: json.dumps(document, indent=2).encode()})
    sweep.run.log_params({"windows": ", ".join(result.windows), "metric": result.metric})
    best = result.challengers[0]
    names = ", ".join(f"{each.version} ({each.window})" for each in result.challengers)
    sweep.run.log_metrics(best.metrics)
    sweep.run.set_tags({NOTE_TAG: f"Versions to compete with the champion: {names}."})
    logger.info("%s: versions %s compete with the champion", sweep.project.name, names)

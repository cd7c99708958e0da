"""A training taken apart: its trials as tasks for any number of workers, and one to close it.

    sweep = open_sweep(project, tracking, mark, ...)         once: the parent run, the tasks
    run_task(project, tracking, sweep.run_id, task, ...)     each task, anywhere
    close_sweep(project, tracking, sweep.run_id, results)    once: the best is registered

Trials of a guided search are drawn from one Optuna study that all workers share. A trial's model is
not carried from worker to worker: the winner is fitted once more, with the same seed, where it is
registered.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tidemill.errors import ExportError, ProjectError
from tidemill.loop.training.progress import OnProgress, Reporter
from tidemill.loop.training.provenance import origin_tags
from tidemill.loop.training.publish import PublishedVersion, publish
from tidemill.loop.training.result import TrainResult, record_data, record_result, summarize
from tidemill.loop.training.train import plan_searches
from tidemill.loop.training.trial import (
    KIND_TAG,
    Sweep,
    TrialOutcome,
    all_trials_failed,
    fit_and_evaluate,
    run_trial,
)
from tidemill.metrics import METRICS
from tidemill.project import Project
from tidemill.steps.data.prepare import PreparedData, prepare
from tidemill.steps.search.pruning import Pruning, pruning_enabled
from tidemill.steps.search.search import GridSearch, Settings, Trial
from tidemill.steps.search.shared_study import shared_study
from tidemill.stores.mlflow.tracking import Tracking

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialTask:
    """One trial to be run; `settings` is None where the study that is named gives them."""

    candidate: str
    number: int
    of: int
    settings: Settings | None = None
    study: str | None = None


@dataclass(frozen=True)
class TrialTaskResult:
    """How a task went: its run and metrics, or the error, or when it was pruned."""

    candidate: str
    number: int
    of: int
    run_id: str = ""
    params: Settings = field(default_factory=dict)
    value: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    pruned: Pruning | None = None


@dataclass(frozen=True)
class OpenedSweep:
    """A training that has begun: its parent run, its tasks, and the metric that decides."""

    run_id: str
    tasks: tuple[TrialTask, ...]
    metric: str


def count_trials(
    project: Project,
    *,
    overrides: Mapping[str, Mapping[str, Any]],
    trials: int | None,
    only: Sequence[str],
) -> int:
    """How many trials a training would have.

    Raises:
        ProjectError: A name that no candidate has.
    """
    searches = plan_searches(project, overrides, trials, only, maximize=True)
    return sum(search.total for search in searches.values())


def open_sweep(
    project: Project,
    tracking: Tracking,
    mark: tuple[str, str],
    *,
    overrides: Mapping[str, Mapping[str, Any]],
    trials: int | None,
    only: Sequence[str],
    storage: str,
) -> OpenedSweep:
    """Begin a training, or find the one with this mark that was begun before.

    Args:
        mark: A tag, name and value, that no other training has.
        storage: Where Optuna keeps the studies: a database that all workers reach.
    """
    data = prepare(project)
    metric = project.gate.deciding_metric(data.task)
    maximize = METRICS[metric].higher_is_better
    searches = plan_searches(project, overrides, trials, only, maximize=maximize)
    tasks: list[TrialTask] = []
    for name, search in searches.items():
        total = search.total
        if isinstance(search, GridSearch):
            found = [search.ask() for _ in range(total)]
            tasks += [TrialTask(name, n, total, settings) for n, settings in enumerate(found, 1)]
        else:
            study = f"{mark[1]}:{name}"
            with shared_study(storage, study, maximize=maximize, seed=project.seed):
                pass  # made here, so that no two workers make it
            tasks += [TrialTask(name, n, total, study=study) for n in range(1, total + 1)]
    run_id = _earlier_run(project, tracking, mark) or _new_run(project, data, tracking, metric)
    return OpenedSweep(run_id, tuple(tasks), metric)


def run_task(
    project: Project,
    tracking: Tracking,
    run_id: str,
    task: TrialTask,
    *,
    storage: str,
    overrides: Mapping[str, Mapping[str, Any]],
    owner: str,
) -> TrialTaskResult:
    """Fit, evaluate and track one trial under the training's run.

    Args:
        run_id: The parent run.
        owner: Who runs it; a trial of the study that the same owner left open counts as failed.
    """
    sweep = _sweep(project, tracking, run_id)
    if task.settings is not None:
        settings = task.settings
        outcome = run_trial(_trial(task, settings), sweep)
    else:
        assert task.study is not None, "a task has settings or a study"
        maximize, seed = METRICS[sweep.metric].higher_is_better, project.seed + task.number
        candidate = project.candidate(task.candidate)
        prune = pruning_enabled(candidate.prune, task.of)
        with shared_study(storage, task.study, maximize=maximize, seed=seed, prune=prune) as study:
            settings = study.ask(candidate, overrides.get(task.candidate, {}), owner)
            outcome = run_trial(_trial(task, settings), sweep, watch=study.watch())
            study.tell(outcome.value, outcome.pruned)
    return TrialTaskResult(
        candidate=task.candidate,
        number=task.number,
        of=task.of,
        run_id=outcome.run_id,
        params=settings,
        value=outcome.value,
        metrics=dict(outcome.metrics),
        error=outcome.error,
        pruned=outcome.pruned,
    )


def _trial(task: TrialTask, settings: Settings) -> Trial:
    return Trial(task.candidate, task.number, task.of, settings)


def close_sweep(
    project: Project,
    tracking: Tracking,
    run_id: str,
    results: Sequence[TrialTaskResult],
    *,
    on_progress: OnProgress,
) -> TrainResult:
    """Fit the best setting once more, register it, and end the training's run.

    Raises:
        ProjectError: Every trial failed; the message gives the reasons.
        ExportError: No model that was trained can be served.
    """
    sweep = _sweep(project, tracking, run_id)
    outcomes = [_outcome(result) for result in results]
    try:
        published = _publish_best(outcomes, sweep, Reporter(on_progress))
        result = summarize(sweep, outcomes, published)
        record_result(sweep, result)
    except Exception as error:
        if not isinstance(error, ProjectError | ExportError):
            raise  # tried again, under the same run
        sweep.run.fail(error)
        sweep.run.end()
        raise
    sweep.run.end()
    return result


def _publish_best(
    outcomes: Sequence[TrialOutcome], sweep: Sweep, report: Reporter
) -> PublishedVersion:
    fine = [outcome for outcome in outcomes if outcome.value is not None]
    if not fine:
        raise all_trials_failed(sweep.project, outcomes)
    maximize = METRICS[sweep.metric].higher_is_better
    ranked = sorted(fine, key=lambda o: o.value or 0.0, reverse=maximize)
    refused: dict[str, str] = {}
    for outcome in ranked:
        report.fitting(outcome.trial.candidate)
        again = replace(outcome, trained=fit_and_evaluate(outcome.trial, sweep.project, sweep.data))
        try:
            published = publish([again], sweep, report)
        except ExportError as error:
            refused[outcome.trial.name] = str(error)
            continue
        return replace(published, refused=refused)
    reasons_text = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
    raise ExportError(f"No candidate of '{sweep.project.name}' can be served. {reasons_text}")


def _sweep(project: Project, tracking: Tracking, run_id: str) -> Sweep:
    data = prepare(project)
    metric = project.gate.deciding_metric(data.task)
    run = tracking.reopen(run_id)
    return Sweep(project, data, metric, tracking, run, origin_tags(project, data))


def _earlier_run(project: Project, tracking: Tracking, mark: tuple[str, str]) -> str | None:
    experiment = tracking.experiment(project.name)
    where = f"tags.`{mark[0]}` = '{mark[1]}' AND tags.`{KIND_TAG}` = 'sweep'"
    found = tracking.call(lambda client: client.search_runs([experiment], where, max_results=1))
    return str(found[0].info.run_id) if found else None


def _new_run(project: Project, data: PreparedData, tracking: Tracking, metric: str) -> str:
    experiment = tracking.experiment(project.name)
    tags = {**origin_tags(project, data), KIND_TAG: "sweep"}
    made = tracking.call(lambda client: client.create_run(experiment, tags=tags, run_name="train"))
    run = tracking.reopen(made.info.run_id)
    record_data(Sweep(project, data, metric, tracking, run, tags))
    return run.id


def _outcome(result: TrialTaskResult) -> TrialOutcome:
    trial = Trial(result.candidate, result.number, result.of, result.params)
    return TrialOutcome(
        trial,
        result.run_id,
        result.value,
        error=result.error,
        metrics=result.metrics,
        pruned=result.pruned,
    )

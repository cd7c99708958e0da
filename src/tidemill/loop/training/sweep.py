"""A training divided into tasks: any worker can run a trial, and one task registers the best.

    sweep = open_sweep(project, store, tag, options)       once: the parent run and the tasks
    run_task(project, store, sweep.run_id, task, ...)      each task, on any worker
    close_sweep(project, store, sweep.run_id, results)     once: registers the best

Trials of a guided search come from one Optuna study that all workers share. A trial's model is not
moved between workers: the winner is fitted again, with the same seed, where it is registered.

See decision 054.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tidemill.errors import ExportError, ProjectError
from tidemill.loop.training.progress import OnProgress, Reporter
from tidemill.loop.training.provenance import origin_tags
from tidemill.loop.training.publish import PublishedVersion, none_servable, publish
from tidemill.loop.training.result import TrainResult, record_data, record_result, summarize
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
from tidemill.steps.search.optuna_search import shared_study
from tidemill.steps.search.parameters import Settings
from tidemill.steps.search.pruning import Pruning, pruning_enabled
from tidemill.steps.search.search import (
    GridSearch,
    Search,
    SearchOptions,
    Trial,
    plan_searches,
)
from tidemill.stores.mlflow.tracking import Tracking


@dataclass(frozen=True)
class SweepStore:
    """Where a sweep is kept: its runs in MLflow, its Optuna studies in a shared database."""

    tracking: Tracking
    studies: str


@dataclass(frozen=True)
class TrialTask:
    """One trial to run, with its settings or with the study that will propose them."""

    candidate: str
    number: int
    of: int
    settings: Settings | None = None
    study: str | None = None


@dataclass(frozen=True)
class TrialTaskResult:
    """The result of a task: its run and metrics, its error, or where it was pruned."""

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
    """A sweep that has begun: its parent run, its tasks, and the deciding metric."""

    run_id: str
    tasks: tuple[TrialTask, ...]
    metric: str


def count_trials(project: Project, options: SearchOptions) -> int:
    """How many trials a training would have.

    Raises:
        ProjectError: The options name an unknown candidate.
    """
    searches = plan_searches(project, options, maximize=True)
    return sum(search.total for search in searches.values())


def open_sweep(
    project: Project, store: SweepStore, tag: tuple[str, str], options: SearchOptions
) -> OpenedSweep:
    """Begin a sweep, or find the one with this tag that an earlier attempt began.

    Args:
        tag: The name and value of a tag that no other sweep has.
    """
    data = prepare(project)
    metric = project.gate.deciding_metric(data.task)
    maximize = METRICS[metric].higher_is_better
    tasks: list[TrialTask] = []
    for name, search in plan_searches(project, options, maximize=maximize).items():
        if isinstance(search, GridSearch):
            tasks += _grid_tasks(name, search)
            continue
        study = f"{tag[1]}:{name}"
        with shared_study(store.studies, study, maximize=maximize, seed=project.seed):
            pass  # created here, so that two workers do not create it at the same time
        numbers = range(1, search.total + 1)
        tasks += [TrialTask(name, n, search.total, study=study) for n in numbers]
    run_id = _earlier_run(project, store.tracking, tag)
    if run_id is None:
        run_id = _new_run(project, data, store.tracking, metric)
    return OpenedSweep(run_id, tuple(tasks), metric)


def _grid_tasks(candidate: str, search: Search) -> list[TrialTask]:
    settings = [search.ask() for _ in range(search.total)]
    return [TrialTask(candidate, n, search.total, each) for n, each in enumerate(settings, 1)]


def run_task(
    project: Project,
    store: SweepStore,
    run_id: str,
    task: TrialTask,
    *,
    overrides: Mapping[str, Mapping[str, Any]],
    owner: str,
) -> TrialTaskResult:
    """Fit, evaluate and track one trial under the parent run `run_id`.

    Args:
        overrides: Parameters by candidate that are fixed instead of searched.
        owner: Who runs the task. A trial of the study that the same owner left unfinished is marked
            failed.
    """
    sweep = _load_sweep(project, store.tracking, run_id)
    if task.settings is not None:
        return _task_result(task, run_trial(_trial(task, task.settings), sweep))
    assert task.study is not None, "a task has settings or a study"
    candidate = project.candidate(task.candidate)
    with shared_study(
        store.studies,
        task.study,
        maximize=METRICS[sweep.metric].higher_is_better,
        seed=project.seed + task.number,
        prune=pruning_enabled(candidate.prune, task.of),
    ) as study:
        settings = study.ask(candidate, overrides.get(task.candidate, {}), owner)
        outcome = run_trial(_trial(task, settings), sweep, callback=study.pruning_callback())
        study.tell(outcome.value, outcome.pruned)
    return _task_result(task, outcome)


def _trial(task: TrialTask, settings: Settings) -> Trial:
    return Trial(task.candidate, task.number, task.of, settings)


def _task_result(task: TrialTask, outcome: TrialOutcome) -> TrialTaskResult:
    return TrialTaskResult(
        candidate=task.candidate,
        number=task.number,
        of=task.of,
        run_id=outcome.run_id,
        params=outcome.trial.params,
        value=outcome.value,
        metrics=dict(outcome.metrics),
        error=outcome.error,
        pruned=outcome.pruned,
    )


def close_sweep(
    project: Project,
    tracking: Tracking,
    run_id: str,
    results: Sequence[TrialTaskResult],
    *,
    on_progress: OnProgress,
) -> TrainResult:
    """Fit the best setting again, register it, and end the parent run.

    Raises:
        ProjectError: Every trial failed; the message gives the reasons.
        ExportError: None of the trained models can be served.
    """
    sweep = _load_sweep(project, tracking, run_id)
    outcomes = [_outcome(result) for result in results]
    try:
        published = _publish_best(outcomes, sweep, Reporter(on_progress))
        result = summarize(sweep, outcomes, published)
        record_result(sweep, result)
    except (ProjectError, ExportError) as error:  # after any other, the job is retried
        sweep.run.fail(error)
        sweep.run.end()
        raise
    sweep.run.end()
    return result


def _publish_best(
    outcomes: Sequence[TrialOutcome], sweep: Sweep, report: Reporter
) -> PublishedVersion:
    fitted = [outcome for outcome in outcomes if outcome.value is not None]
    if not fitted:
        raise all_trials_failed(sweep.project, outcomes)
    maximize = METRICS[sweep.metric].higher_is_better
    refused: dict[str, str] = {}
    for outcome in sorted(fitted, key=lambda o: o.value or 0.0, reverse=maximize):
        report.fitting(outcome.trial.candidate)
        trained = fit_and_evaluate(outcome.trial, sweep.project, sweep.data)
        try:
            published = publish([replace(outcome, trained=trained)], sweep, report)
        except ExportError as error:
            refused[outcome.trial.name] = str(error)
            continue
        return replace(published, refused=refused)
    raise none_servable(sweep.project, refused)


def _load_sweep(project: Project, tracking: Tracking, run_id: str) -> Sweep:
    data = prepare(project)
    metric = project.gate.deciding_metric(data.task)
    run = tracking.reopen(run_id)
    return Sweep(project, data, metric, tracking, run, origin_tags(project, data))


def _earlier_run(project: Project, tracking: Tracking, tag: tuple[str, str]) -> str | None:
    experiment = tracking.experiment(project.name)
    where = f"tags.`{tag[0]}` = '{tag[1]}' AND tags.`{KIND_TAG}` = 'sweep'"
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

"""Train a project: prepare its data, run every trial, and register the best model.

tracking = Tracking("sqlite:///.tidemill/mlflow.db", artifact_root=Path(".tidemill/artifacts"))
result = train(project, tracking)
print(result.version, result.metrics)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from tidemill.loop.operations.signals import Cancelled, exit_on_sigterm
from tidemill.loop.training.progress import OnProgress, Progress, Reporter
from tidemill.loop.training.provenance import origin_tags
from tidemill.loop.training.publish import publish
from tidemill.loop.training.result import (
    TrainResult,
    TrialResult,
    record_data,
    record_result,
    summarize,
    write_processed,
)
from tidemill.loop.training.trial import (
    KIND_TAG,
    Sweep,
    TrialOutcome,
    all_trials_failed,
    run_trial,
)
from tidemill.metrics import METRICS, is_better
from tidemill.project import Project
from tidemill.steps.data.prepare import prepare
from tidemill.steps.search.search import Search, SearchOptions, Trial, plan_searches
from tidemill.stores.mlflow.tracking import Tracking

__all__ = ["Cancelled", "Progress", "TrainResult", "TrialResult", "train"]

NO_OPTIONS = SearchOptions()


def train(
    project: Project,
    tracking: Tracking,
    options: SearchOptions = NO_OPTIONS,
    *,
    on_progress: OnProgress = lambda progress: None,
    extra_rows: pd.DataFrame | None = None,
) -> TrainResult:
    """Fit every candidate, track each trial as a run, and register the best as a new version.

    A trial that fails is marked as failed and the others continue. Ctrl-C, SIGTERM and `Cancelled`
    (raised from `on_progress`) end the open runs as KILLED, and nothing is registered.

    Args:
        tracking: The MLflow server or store, and where a new experiment keeps its artifacts.
        options: Fixed parameters, number of trials and choice of candidates.
        on_progress: Called with every step, in this thread.
        extra_rows: Additional rows under the project's column names, such as labelled predictions.

    Raises:
        DataError: The data cannot be used.
        ProjectError: The options name an unknown candidate, or every candidate failed; the message
            gives the reason for each.
        ExportError: None of the trained models can be served.
        UnavailableError: MLflow cannot be reached.
    """
    report = Reporter(on_progress)
    report.loading()
    tracking.experiment(project.name)  # fails before any work is done if MLflow is unavailable
    data = prepare(project, extra_rows=extra_rows)
    write_processed(project, data)
    metric = project.gate.deciding_metric(data.task)
    searches = plan_searches(project, options, maximize=METRICS[metric].higher_is_better)
    report.planned(sum(search.total for search in searches.values()), metric)
    tags = origin_tags(project, data)
    with (
        exit_on_sigterm(),
        tracking.run(project.name, "train", tags={**tags, KIND_TAG: "sweep"}) as run,
    ):
        sweep = Sweep(project, data, metric, tracking, run, tags)
        result = _run_sweep(sweep, searches, report)
    report.done()
    return result


def _run_sweep(sweep: Sweep, searches: dict[str, Search], report: Reporter) -> TrainResult:
    record_data(sweep)
    outcomes = [
        outcome
        for candidate, search in searches.items()
        for outcome in try_candidate(candidate, search, sweep, report)
    ]
    published = publish(rank_outcomes(outcomes, sweep), sweep, report)
    result = summarize(sweep, outcomes, published)
    record_result(sweep, result)
    return result


def try_candidate(
    candidate: str, search: Search, sweep: Sweep, report: Reporter, window: str = ""
) -> list[TrialOutcome]:
    """Run every trial of a candidate's search; only the best outcome keeps its model in memory."""
    outcomes: list[TrialOutcome] = []
    best: int | None = None
    while (settings := search.ask()) is not None:
        report.fitting(candidate)
        trial = Trial(candidate, len(outcomes) + 1, search.total, settings, window)
        outcome = run_trial(trial, sweep, report.within, search.pruning_callback(settings))
        search.tell(settings, outcome.value, outcome.pruned)
        report.fitted(outcome.value)
        outcomes.append(outcome)
        best = _drop_worse_model(outcomes, best, sweep.metric)
    return outcomes


def _drop_worse_model(outcomes: list[TrialOutcome], best: int | None, metric: str) -> int | None:
    """Drop the worse model of the best and the newest outcome; returns the index of the best.

    Changes `outcomes` in place.
    """
    newest = len(outcomes) - 1
    value = outcomes[newest].value
    if value is None:
        return best
    if best is None:
        return newest
    best_value = outcomes[best].value
    worse = best if best_value is None or is_better(metric, value, best_value) else newest
    outcomes[worse] = replace(outcomes[worse], trained=None)
    return newest if worse == best else best


def rank_outcomes(outcomes: Sequence[TrialOutcome], sweep: Sweep) -> list[TrialOutcome]:
    """Every candidate's best outcome, best first; of equal ones, the one tried first.

    Raises:
        ProjectError: All trials failed; the message gives each reason once.
    """
    fitted = [outcome for outcome in outcomes if outcome.trained is not None]
    if not fitted:
        raise all_trials_failed(sweep.project, outcomes)
    maximize = METRICS[sweep.metric].higher_is_better
    return sorted(fitted, key=lambda o: o.value or 0.0, reverse=maximize)

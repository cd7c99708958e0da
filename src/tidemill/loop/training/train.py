"""Train a project: load, clean, split; fit, evaluate and log every trial; register the best.

result = train(project, tracking_uri="sqlite:///.tidemill/mlflow.db",
               artifact_root=Path(".tidemill/artifacts"))
print(result.version, result.metrics)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

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
from tidemill.loop.training.trial import KIND_TAG, Sweep, TrialOutcome, all_trials_failed, run_trial
from tidemill.metrics import METRICS, is_better
from tidemill.project import Project
from tidemill.steps.data.prepare import prepare
from tidemill.steps.search.search import Search, Trial, open_search
from tidemill.stores.mlflow.tracking import Tracking

__all__ = ["Cancelled", "Progress", "TrainResult", "TrialResult", "train"]

NO_OVERRIDES: Mapping[str, Mapping[str, Any]] = MappingProxyType({})


def train(
    project: Project,
    *,
    tracking_uri: str,
    registry_uri: str | None = None,
    artifact_root: Path | str | None = None,
    overrides: Mapping[str, Mapping[str, Any]] = NO_OVERRIDES,
    trials: int | None = None,
    only: Sequence[str] = (),
    on_progress: OnProgress = lambda progress: None,
    extra_rows: pd.DataFrame | None = None,
) -> TrainResult:
    """Fit every candidate, track each trial as a run, and register the best as a new version.

    A trial that fails is marked so and the others go on. Ctrl-C, SIGTERM or `Cancelled`
    (raise it from `on_progress`) end the open runs as KILLED, and nothing is registered.

    Args:
        tracking_uri: MLflow's server or store.
        artifact_root: Where artifacts of a new experiment go; a server decides that itself.
        overrides: Parameters by candidate that are set rather than searched; see
            `tidemill.steps.search.search.parse_overrides`.
        trials: How many settings of each candidate to try; None takes the project's numbers.
        only: The candidates to try; none given means all.
        on_progress: Is told about every step, in this thread.
        extra_rows: More rows under the project's own column names, such as labelled feedback.

    Raises:
        DataError: The data cannot be used.
        ProjectError: An unknown candidate, or every candidate failed (the message says why each).
        ExportError: No model that was trained can be served.
        UnavailableError: MLflow cannot be reached.
    """
    report = Reporter(on_progress)
    report.loading()
    tracking = Tracking(tracking_uri, registry_uri, artifact_root=artifact_root)
    tracking.experiment(project.name)  # before the work, so that MLflow being away costs none
    data = prepare(project, extra_rows=extra_rows)
    write_processed(project, data)
    metric = project.gate.deciding_metric(data.task)
    maximize = METRICS[metric].higher_is_better
    searches = plan_searches(project, overrides, trials, only, maximize=maximize)
    report.planned(sum(search.total for search in searches.values()), metric)
    tags = origin_tags(project, data)
    with (
        exit_on_sigterm(),
        tracking.run(project.name, "train", tags={**tags, KIND_TAG: "sweep"}) as run,
    ):
        sweep = Sweep(project, data, metric, tracking, run, tags)
        record_data(sweep)
        outcomes = [
            outcome
            for candidate, search in searches.items()
            for outcome in try_candidate(candidate, search, sweep, report)
        ]
        published = publish(rank_outcomes(outcomes, sweep), sweep, report)
        result = summarize(sweep, outcomes, published)
        record_result(sweep, result)
    report.done()
    return result


def plan_searches(
    project: Project,
    overrides: Mapping[str, Mapping[str, Any]],
    trials: int | None,
    only: Sequence[str],
    *,
    maximize: bool,
) -> dict[str, Search]:
    """The search of each candidate that is to be tried, by name.

    Raises:
        ProjectError: A name that no candidate has.
    """
    for name in [*only, *overrides]:
        project.candidate(name)
    chosen = [c for c in project.candidates if not only or c.name in only]
    return {
        candidate.name: open_search(
            candidate,
            pinned=overrides.get(candidate.name),
            trials=trials,
            seed=project.seed,
            maximize=maximize,
        )
        for candidate in chosen
    }


def try_candidate(
    candidate: str, search: Search, sweep: Sweep, report: Reporter, window: str = ""
) -> list[TrialOutcome]:
    """Run every trial the search asks for; only the best outcome keeps its model in memory."""
    outcomes: list[TrialOutcome] = []
    best: int | None = None
    while (settings := search.ask()) is not None:
        report.fitting(candidate)
        trial = Trial(candidate, len(outcomes) + 1, search.total, settings, window)
        outcome = run_trial(trial, sweep, report.within, search.watch(settings))
        search.tell(settings, outcome.value, outcome.pruned)
        report.fitted(outcome.value)
        outcomes.append(outcome)
        best = _drop_worse(outcomes, best, sweep.metric)
    return outcomes


def _drop_worse(outcomes: list[TrialOutcome], best: int | None, metric: str) -> int | None:
    """Take the model out of the worse of the best outcome and the newest; gives the best's place.

    `outcomes` is changed in place.
    """
    newest = len(outcomes) - 1
    value = outcomes[newest].value
    if value is None:
        return best
    if best is None:
        return newest
    was = outcomes[best].value
    worse = best if was is None or is_better(metric, value, was) else newest
    outcomes[worse] = replace(outcomes[worse], trained=None)
    return newest if worse == best else best


def rank_outcomes(outcomes: Sequence[TrialOutcome], sweep: Sweep) -> list[TrialOutcome]:
    """Every candidate's best outcome, best first; of equal ones, the one tried first.

    Raises:
        ProjectError: All failed; the message gives each reason once.
    """
    fine = [outcome for outcome in outcomes if outcome.trained is not None]
    if not fine:
        raise all_trials_failed(sweep.project, outcomes)
    maximize = METRICS[sweep.metric].higher_is_better
    return sorted(fine, key=lambda o: o.value or 0.0, reverse=maximize)

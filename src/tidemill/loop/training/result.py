"""What a training came to: as a value for its caller, on the parent run, and beside the data."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidemill.errors import ProjectError
from tidemill.loop.training.provenance import data_used
from tidemill.loop.training.publish import PublishedVersion
from tidemill.loop.training.trial import WARNINGS_TAG, Sweep, TrialOutcome
from tidemill.project import Project
from tidemill.steps.data.prepare import PreparedData
from tidemill.steps.search.pruning import Pruning
from tidemill.stores.mlflow.tracking import NOTE_TAG

BEST_FILE = "best_model_metrics.json"
DATA_WARNINGS_FILE = "data_warnings.txt"


@dataclass(frozen=True)
class TrialResult:
    """One trial: its run, its settings, and its metrics, its error, or when it was pruned."""

    name: str
    candidate: str
    run_id: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    error: str | None = None
    pruned: Pruning | None = None


@dataclass(frozen=True)
class TrainResult:
    """What a training came to.

    Attributes:
        run_id, sweep_id: The run of the winner; the run that all trials belong under.
        candidate, trial: The winner, and the name of its run.
        metric: The one that decided; `metrics` are the winner's on held-out rows.
        digest: Of the version's bundle.
        failures: Why trials failed, by run name.
        refused: Why better trials than the winner cannot be served, by run name.
        warnings: What is doubtful about the data.
        pruned: How many of the trials were given up early.
    """

    model: str
    version: str
    run_id: str
    sweep_id: str
    candidate: str
    trial: str
    params: Mapping[str, Any]
    metric: str
    metrics: Mapping[str, float]
    digest: str
    trials: tuple[TrialResult, ...]
    failures: Mapping[str, str]
    refused: Mapping[str, str]
    warnings: tuple[str, ...]
    pruned: int = 0


def write_processed(project: Project, data: PreparedData) -> None:
    """Write train.csv and test.csv, where the project asks for them."""
    if project.processed is None:
        return
    for name, frame in (("train.csv", data.train), ("test.csv", data.test)):
        _write(project, name, frame.to_csv(index=False))


def _write(project: Project, name: str, text: str) -> None:
    """Write beside the file and rename, so that nobody reads half of it."""
    folder = Path(project.root, project.processed or "")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{name}.{os.getpid()}"
        part.write_text(text)
        part.replace(folder / name)
    except OSError as error:
        raise ProjectError(
            f"{folder / name} cannot be written: {error}", field="processed"
        ) from error


def record_data(sweep: Sweep) -> None:
    """Say on the parent run what was learned from, and what is doubtful about it."""
    sweep.run.log_data(data_used(sweep.project, sweep.data))
    sweep.run.log_params(
        {
            "dataset_name": sweep.data.source,
            "rows_train": len(sweep.data.train),
            "rows_test": len(sweep.data.test),
            "columns": len(sweep.data.inputs),
            "metric": sweep.metric,
        }
    )
    if sweep.data.warnings:
        text = "\n".join(warning.text for warning in sweep.data.warnings)
        sweep.run.set_tags({WARNINGS_TAG: text})
        sweep.run.log_files({DATA_WARNINGS_FILE: text.encode()})


def summarize(
    sweep: Sweep, outcomes: Sequence[TrialOutcome], published: PublishedVersion
) -> TrainResult:
    """The training as its caller gets it, without models."""
    winner = published.outcome
    failures = {o.trial.name: o.error for o in outcomes if o.error is not None}
    return TrainResult(
        model=sweep.project.name,
        version=published.version,
        run_id=winner.run_id,
        sweep_id=sweep.run.id,
        candidate=winner.trial.candidate,
        trial=winner.trial.name,
        params=winner.trial.params,
        metric=sweep.metric,
        metrics=winner.metrics,
        digest=published.digest,
        trials=tuple(_trial_result(outcome) for outcome in outcomes),
        failures=failures,
        refused=published.refused,
        warnings=tuple(warning.text for warning in sweep.data.warnings),
        pruned=sum(outcome.pruned is not None for outcome in outcomes),
    )


def _trial_result(outcome: TrialOutcome) -> TrialResult:
    trial = outcome.trial
    return TrialResult(
        name=trial.name,
        candidate=trial.candidate,
        run_id=outcome.run_id,
        params=trial.params,
        metrics=outcome.metrics,
        error=outcome.error,
        pruned=outcome.pruned,
    )


def record_result(sweep: Sweep, result: TrainResult) -> None:
    """Say on the parent run, in the winner's artifacts and beside the data which model is best."""
    text = json.dumps(_best(result), indent=2, default=str)
    sweep.tracking.reopen(result.run_id).log_files({BEST_FILE: text.encode()})
    sweep.run.log_files({BEST_FILE: text.encode()})
    sweep.run.log_metrics(result.metrics)
    sweep.run.set_tags(
        {
            "tidemill.version": result.version,
            "tidemill.best_run": result.run_id,
            NOTE_TAG: f"{result.trial} is best by {result.metric}: version {result.version}."
            + (f" {_pruned_text(result)}." if result.pruned else ""),
        }
    )
    if sweep.project.processed is not None:
        _write(sweep.project, BEST_FILE, text)


def _pruned_text(result: TrainResult) -> str:
    """How many trials there were, and how many were given up early."""
    return f"{len(result.trials)} trials, {result.pruned} pruned"


def _best(result: TrainResult) -> dict[str, Any]:
    return {
        "model": result.model,
        "version": result.version,
        "best_model": result.candidate,
        "run_id": result.run_id,
        "params": dict(result.params),
        "metric": result.metric,
        "metrics": dict(result.metrics),
        "candidates": [
            {
                "name": t.name,
                "params": dict(t.params),
                "metrics": dict(t.metrics),
                "error": t.error,
                **({"pruned": asdict(t.pruned)} if t.pruned else {}),
            }
            for t in result.trials
        ],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }

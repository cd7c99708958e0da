"""Train a project in this process with a progress bar, and print the result."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tidemill.cli import terminal
from tidemill.loop.training.progress import Progress as TrainingProgress
from tidemill.loop.training.train import TrainResult, train
from tidemill.project import Project
from tidemill.settings import Settings
from tidemill.steps.search.parameters import parse_overrides
from tidemill.steps.search.search import SearchOptions
from tidemill.stores.mlflow.tracking import Tracking

HEADLINES = ("accuracy", "f1_score", "roc_auc", "rmse", "mae", "r2")


def train_project(
    project: Project,
    settings: Settings,
    *,
    overrides: list[str] | None = None,
    trials: int | None = None,
    only: list[str] | None = None,
) -> TrainResult:
    """Train a project's candidates and register the best.

    Args:
        overrides: Fixed parameters as `CANDIDATE.PARAM=VALUE`.
        trials: Settings to try for each candidate; None for the project's number.
        only: The candidates to train; none means all.
    """
    options = SearchOptions(parse_overrides(project, overrides or []), trials, only or ())
    tracking = Tracking(
        settings.mlflow_uri, settings.registry_uri, artifact_root=settings.artifact_root
    )
    with _progress_bar(project.name) as on_progress:
        return train(project, tracking, options, on_progress=on_progress)


@contextlib.contextmanager
def _progress_bar(name: str) -> Iterator[Callable[[TrainingProgress], None]]:
    """A bar with the current trial and the best metric so far."""
    text = TextColumn("[bold]{task.description}[/] {task.fields[doing]}")
    best = TextColumn("{task.fields[best]}")
    columns = (text, BarColumn(bar_width=30), TextColumn("{task.percentage:>3.0f}%"), best)
    with Progress(*columns, TimeElapsedColumn(), console=terminal.err, transient=True) as bar:
        task = bar.add_task(name, total=100, doing="", best="")

        def update(step: TrainingProgress) -> None:
            trial = f"{step.candidate} {step.trial}/{step.trials}" if step.candidate else ""
            best = "" if step.best is None else f"best {step.metric} {step.best:.4f}"
            bar.update(task, completed=step.percent, doing=f"{step.stage} {trial}", best=best)

        yield update


def show_result(result: TrainResult) -> None:
    """Print the trials as a table, best first, then the version that was registered."""
    trials = sorted(result.trials, key=lambda trial: trial.run_id != result.run_id)
    names = list(dict.fromkeys(name for trial in trials for name in trial.metrics))
    shown = [name for name in names if name in HEADLINES or name == result.metric]
    rows = [
        [trial.name, _format_params(trial.params), *(trial.metrics.get(m) for m in shown)]
        for trial in trials
        if trial.error is None and trial.pruned is None
    ]
    terminal.print_table(["run", "settings", *shown], rows)
    for warning in result.warnings:
        terminal.out.print(f"[yellow]Warning:[/] {escape(warning)}")
    for trial, why in {**result.failures, **result.refused}.items():
        terminal.out.print(f"[red]{escape(trial)}[/]: {escape(why)}")
    if result.pruned:
        terminal.out.print(f"{len(result.trials)} trials, {result.pruned} pruned")
    terminal.out.print(
        f"Registered [bold]{escape(result.model)}[/] version [bold]{result.version}[/]: "
        f"{escape(result.trial)}, {result.metric} {result.metrics[result.metric]:.4f}"
    )


def _format_params(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in params.items()) or "defaults"

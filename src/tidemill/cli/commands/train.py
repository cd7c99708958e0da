"""`tidemill train`: try every candidate, register the best."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tidemill.cli import command_help, terminal
from tidemill.cli.commands.models import gate_version, show_verdict
from tidemill.cli.context import (
    HomeOption,
    JsonOption,
    ProjectOption,
    TrackingOption,
    find_project,
    open_settings,
    start_logs,
)

if TYPE_CHECKING:
    from tidemill.loop.training.progress import Progress as Step
    from tidemill.loop.training.train import TrainResult
    from tidemill.project import Project
    from tidemill.settings import Settings
    from tidemill.steps.gate.gate import GateVerdict

HEADLINES = ("accuracy", "f1_score", "roc_auc", "rmse", "mae", "r2")

TRAIN_KEYS = (
    "model, version, run_id, sweep_id, candidate, trial, params, metric, metrics, digest, "
    "trials, failures, refused, warnings, pruned; with --promote: verdict"
)


def register(app: typer.Typer) -> None:
    command_help.add(
        app,
        train,
        command_help.TRAIN,
        keys=TRAIN_KEYS,
        gated=True,
    )


def train(
    name: Annotated[
        str | None, typer.Argument(help="A model's name, where its project is known here.")
    ] = None,
    project: ProjectOption = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Fix a parameter: CANDIDATE.PARAM=VALUE. May be repeated."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Try only this candidate. May be repeated.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Settings to try for each candidate.")
    ] = None,
    promote: Annotated[
        bool, typer.Option("--promote", help="Ask the gate to make the best one champion.")
    ] = False,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fit every candidate, track each setting in MLflow, and register the best as a version.

    Examples:

      tidemill train

      tidemill train --set logistic_regression.C=0.5 --promote

      tidemill train --project gallery:california_housing --only ridge

      tidemill train churn --trials 40
    """
    settings = open_settings(home, tracking_uri)
    start_logs(settings, "train")
    found = find_project(project or name, settings)
    result = train_project(found, settings, overrides=set_ or [], trials=trials, only=only or [])
    if not as_json:
        show(result)
    verdict = _ask_gate(settings, found, result) if promote else None
    if as_json:
        terminal.print_json(summary(result) | ({"verdict": verdict} if verdict else {}))
    elif verdict:
        show_verdict(verdict)
    if verdict and not verdict.promoted:
        raise typer.Exit(command_help.Exit.GATE)


def _ask_gate(settings: Settings, project: Project, result: TrainResult) -> GateVerdict:
    with terminal.err.status(f"The gate examines {project.name} ..."):
        return gate_version(settings, project.name, project, version=result.version)


def train_project(
    project: Project,
    settings: Settings,
    *,
    overrides: list[str] | None = None,
    trials: int | None = None,
    only: list[str] | None = None,
) -> TrainResult:
    """Train with a progress bar."""
    from tidemill.loop.training.train import train
    from tidemill.steps.search.search import parse_overrides

    parsed = parse_overrides(project, overrides or [])
    with _bar(project.name) as on_progress:
        return train(
            project,
            tracking_uri=settings.mlflow_uri,
            registry_uri=settings.registry_uri,
            artifact_root=settings.artifact_root,
            overrides=parsed,
            trials=trials,
            only=only or [],
            on_progress=on_progress,
        )


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Callable[[Step], None]]:
    """A bar that says what is being fitted and how good the best one is."""
    text = TextColumn("[bold]{task.description}[/] {task.fields[doing]}")
    best = TextColumn("{task.fields[best]}")
    columns = (text, BarColumn(bar_width=30), TextColumn("{task.percentage:>3.0f}%"), best)
    with Progress(*columns, TimeElapsedColumn(), console=terminal.err, transient=True) as bar:
        task = bar.add_task(name, total=100, doing="", best="")

        def show_step(step: Step) -> None:
            which = f"{step.candidate} {step.trial}/{step.trials}" if step.candidate else ""
            best = "" if step.best is None else f"best {step.metric} {step.best:.4f}"
            bar.update(task, completed=step.percent, doing=f"{step.stage} {which}", best=best)

        yield show_step


def summary(result: TrainResult) -> dict[str, Any]:
    """The result as a program reads it."""
    return dataclasses.asdict(result)


def show(result: TrainResult) -> None:
    """The trials as a table, and what became a version."""
    best = sorted(result.trials, key=lambda trial: trial.run_id != result.run_id)
    names = list(dict.fromkeys(name for trial in best for name in trial.metrics))
    shown = [name for name in names if name in HEADLINES or name == result.metric]
    rows = [
        [trial.name, settings_text(trial.params), *(trial.metrics.get(m) for m in shown)]
        for trial in best
        if trial.error is None and trial.pruned is None
    ]
    terminal.print_table(["run", "settings", *shown], rows)
    for warning in result.warnings:
        terminal.out.print(f"[yellow]Look:[/] {escape(warning)}")
    for trial, why in {**result.failures, **result.refused}.items():
        terminal.out.print(f"[red]{escape(trial)}[/]: {escape(why)}")
    if result.pruned:
        terminal.out.print(f"{len(result.trials)} trials, {result.pruned} pruned")
    terminal.out.print(
        f"Registered [bold]{escape(result.model)}[/] version [bold]{result.version}[/]: "
        f"{escape(result.trial)}, {result.metric} {result.metrics[result.metric]:.4f}"
    )


def settings_text(params: Mapping[str, Any]) -> str:
    """Parameters as a person writes them."""
    return ", ".join(f"{name}={value}" for name, value in params.items()) or "as they are"

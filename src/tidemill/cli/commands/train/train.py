"""`tidemill train`: train every candidate and register the best."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from tidemill.cli import terminal
from tidemill.cli.command_help import Exit, command_app, notes
from tidemill.cli.context import (
    HomeOption,
    JsonOption,
    ProjectOption,
    TrackingOption,
    find_project,
    open_settings,
    start_logs,
)
from tidemill.cli.gate import gate_version, show_verdict
from tidemill.cli.training import show_result, train_project

TRAIN_KEYS = (
    "model, version, run_id, sweep_id, candidate, trial, params, metric, metrics, digest, "
    "trials, failures, refused, warnings, pruned; with --promote: verdict"
)
app = command_app()


@app.command(epilog=notes(TRAIN_KEYS, gated=True))
def train(
    name: Annotated[
        str | None, typer.Argument(help="A model's name, if its project is configured here.")
    ] = None,
    project: ProjectOption = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Fix a parameter: CANDIDATE.PARAM=VALUE. May be repeated."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Train only this candidate. May be repeated.")
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
    """Train every candidate, track each trial in MLflow, and register the best as a version.

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
        show_result(result)
    verdict = None
    if promote:
        with terminal.err.status(f"Evaluating {found.name} at the gate ..."):
            verdict = gate_version(settings, found.name, found, version=result.version)
    if as_json:
        printed = dataclasses.asdict(result)
        terminal.print_json({**printed, "verdict": verdict} if verdict else printed)
    elif verdict:
        show_verdict(verdict)
    if verdict and not verdict.promoted:
        raise typer.Exit(Exit.GATE)

"""`tidemill promote`: ask the gate to make a version champion."""

from __future__ import annotations

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
from tidemill.cli.control_plane import open_registry
from tidemill.cli.gate import gate_version, show_verdict
from tidemill.errors import GateError, ProjectError
from tidemill.project import Project
from tidemill.settings import Settings

PROMOTE_KEYS = (
    "passed, reasons, metric, rows, confidence, tolerance, metrics, champion_metrics, "
    "comparison, minimum, parity, latency_ms, champion_latency_ms, max_latency_ms, notes, "
    "model, version, champion, promoted, forced"
)
app = command_app()


@app.command(epilog=notes(PROMOTE_KEYS, gated=True))
def promote(
    name: Annotated[str, typer.Argument(help="The registered model.")],
    metric: Annotated[
        str | None, typer.Option(help="Decide by this metric. [default: the project's]")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Promote this version. [default: the best by the metric]")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Override the gate; needs --reason.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Reason, for the audit log.")] = None,
    project: ProjectOption = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the gate to make the best version champion; exit 3 if the gate refuses.

    The version and the champion predict the same held-out rows. The version must reach the
    project's minimum metrics, and a paired bootstrap must show that it is better. The evidence is
    stored with the version.

    Examples:

      tidemill promote churn

      tidemill promote churn --metric roc_auc --version 4

      tidemill promote imported --version 1 --force --reason "agreed on in review"
    """
    settings = open_settings(home, tracking_uri)
    start_logs(settings, "promote")
    found = _project_of(project, name, settings, force)
    with terminal.err.status(f"Evaluating {name} at the gate ..."):
        verdict = gate_version(
            settings, name, found, version=version, metric=metric, force=force, reason=reason
        )
    if as_json:
        terminal.print_json(verdict)
    else:
        show_verdict(verdict)
    if not verdict.promoted:
        raise typer.Exit(Exit.GATE)


def _project_of(project: str | None, name: str, settings: Settings, force: bool) -> Project | None:
    """The project given, else the one named by the model's latest version, else one of that name.

    Raises:
        GateError: No project was found, and `force` is off.
    """
    if project is not None:
        return find_project(project, settings)
    source = open_registry(settings).latest(name).tags.get("tidemill.project")
    problem: ProjectError | None = None
    for reference in filter(None, (source, name)):
        try:
            found = find_project(reference, settings)
        except ProjectError as error:
            problem = error
            continue
        if found.name == name:
            return found
    if force:
        return None
    raise GateError(
        f"The gate needs the project of '{name}' for its held-out rows, and found none.",
        remedy="Pass it with --project FILE, or use --force with --reason.",
    ) from problem

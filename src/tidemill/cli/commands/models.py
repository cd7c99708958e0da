"""`tidemill models`, `promote` and `rollback`: versions, and which of them is champion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from tidemill.cli import command_help, terminal
from tidemill.cli.commands.operate import day, platform_of
from tidemill.cli.context import (
    HomeOption,
    JsonOption,
    ProjectOption,
    TrackingOption,
    find_project,
    open_settings,
    start_logs,
)
from tidemill.errors import GateError, ProjectError

if TYPE_CHECKING:
    from tidemill.loop.promotion.promote import Transition
    from tidemill.project import Project
    from tidemill.settings import Settings
    from tidemill.steps.gate.gate import GateVerdict
    from tidemill.stores.mlflow.registry import Registry
    from tidemill.stores.mlflow.versions import ModelVersion

HEADLINES = ("accuracy", "f1_score", "rmse", "r2")

MODELS_KEYS = (
    "name, aliases, about; with NAME: version, stage, aliases, candidate, run_id, bundle, "
    "created, metrics, tags"
)
PROMOTE_KEYS = (
    "passed, reasons, metric, rows, confidence, tolerance, metrics, champion_metrics, "
    "comparison, minimum, parity, latency_ms, champion_latency_ms, max_latency_ms, notes, "
    "model, version, champion, promoted, forced"
)


def register(app: typer.Typer) -> None:
    command_help.add(
        app,
        models,
        command_help.TRAIN,
        keys=MODELS_KEYS,
        many=True,
    )
    command_help.add(
        app,
        promote,
        command_help.TRAIN,
        keys=PROMOTE_KEYS,
        gated=True,
    )
    command_help.add(app, rollback, command_help.TRAIN, keys="model, version, replaced, reason")


def models(
    name: Annotated[str | None, typer.Argument(help="Show this model's versions.")] = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the registered models, or the versions of one with stages and metrics.

    Examples:

      tidemill models

      tidemill models iris-classifier --json
    """
    registry = open_registry(open_settings(home, tracking_uri))
    if name is None:
        _show_models(registry, as_json)
    else:
        _show_versions(registry, name, as_json)


def promote(
    name: Annotated[str, typer.Argument(help="The registered model.")],
    metric: Annotated[
        str | None, typer.Option(help="Decide by this metric. [default: the project's]")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Ask for this version. [default: the best by the metric]")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Override the gate; needs --reason.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why, for the record.")] = None,
    project: ProjectOption = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the gate to make the best version champion; exit 3 when it stays closed.

    Version and champion answer the same held-out rows. The version must reach the project's
    minimum metrics, and a paired bootstrap must say that it is better. The evidence is kept with
    the version.

    Examples:

      tidemill promote churn

      tidemill promote churn --metric roc_auc --version 4

      tidemill promote imported --version 1 --force --reason "agreed on in review"
    """
    settings = open_settings(home, tracking_uri)
    start_logs(settings, "promote")
    found = _project_of(project, name, settings, force)
    more = {"metric": metric, "force": force, "reason": reason}
    with terminal.err.status(f"The gate examines {name} ..."):
        verdict = gate_version(settings, name, found, version=version, **more)
    if as_json:
        terminal.print_json(verdict)
    else:
        show_verdict(verdict)
    if not verdict.promoted:
        raise typer.Exit(command_help.Exit.GATE)


def rollback(
    name: Annotated[str, typer.Argument(help="The registered model.")],
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "rollback by hand",
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the version that was champion before champion again.

    Examples:

      tidemill rollback churn --reason "wrong for new customers"
    """
    from tidemill.loop.promotion.promote import rollback as move_back

    settings = open_settings(home, tracking_uri)
    start_logs(settings, "promote")
    with platform_of(settings) as platform:
        registry = open_registry(settings)
        moved = move_back(
            registry, name, reason=reason, actor="cli", audit=platform.audit_transition
        )
    if as_json:
        names = ("model", "version", "replaced", "reason")
        terminal.print_json({each: getattr(moved, each) for each in names})
        return
    terminal.out.print(f"{escape(name)}: {describe(moved)}")


def open_registry(settings: Settings) -> Registry:
    """The registry that the settings name."""
    from tidemill.stores.mlflow.connection import set_http_timeouts
    from tidemill.stores.mlflow.output import silence_mlflow_output
    from tidemill.stores.mlflow.registry import Registry

    set_http_timeouts()
    silence_mlflow_output()
    return Registry(settings.mlflow_uri, settings.registry_uri)


def gate_version(
    settings: Settings, name: str, project: Project | None, **options: Any
) -> GateVerdict:
    """Ask the gate, and record what moves; options as `loop.promote.promote` takes them."""
    from tidemill.loop.promotion.promote import promote

    with platform_of(settings) as platform:
        registry = open_registry(settings)
        audit = platform.audit_transition
        return promote(project, registry, name, actor="cli", audit=audit, **options)


def show_verdict(verdict: GateVerdict) -> None:
    """What was compared, as a table; then what came of it and why."""
    if verdict.metrics:
        other = verdict.champion_metrics or {}
        rows = [[metric, value, other.get(metric)] for metric, value in verdict.metrics.items()]
        columns = ["metric", f"version {verdict.version}", f"champion {verdict.champion or ''}"]
        terminal.print_table(columns, rows, f"On {verdict.rows} held-out rows")
    if (found := verdict.comparison) is not None:
        interval = "" if found.low is None else f" [{found.low:.4f}, {found.high:.4f}]"
        terminal.out.print(
            f"Gain in {verdict.metric}: {found.difference:+.4f}{interval}; "
            f"worse in {found.probability_worse:.1%} of {found.resamples} resamples.",
            markup=False,
        )
    for sentence in (*verdict.reasons, *verdict.notes):
        terminal.out.print(f"  {sentence}", markup=False)
    what = f"{verdict.model} version {verdict.version}"
    if verdict.promoted:
        by = " by override" if verdict.forced else ""
        terminal.out.print(f"[bold green]Promoted[/] {escape(what)}{by}.")
    else:
        terminal.out.print(f"[bold yellow]Not promoted[/]: {escape(what)}.")


def describe(moved: Transition) -> str:
    """A transition in a sentence."""
    instead = f" instead of version {moved.replaced}" if moved.replaced else ""
    return f"version {moved.version} is champion{instead} ({moved.reason})."


def _project_of(project: str | None, name: str, settings: Settings, force: bool) -> Project | None:
    """The model's project: named, known here, or where its latest version says it came from."""
    if project is not None:
        return find_project(project, settings)
    where = open_registry(settings).latest(name).tags.get("tidemill.project")
    problem: ProjectError | None = None
    for reference in filter(None, (where, name)):
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
        f"The gate needs the project of '{name}' for rows to judge on, and knows none.",
        remedy="Name it with --project FILE, or use --force with --reason.",
    ) from problem


def _show_models(registry: Registry, as_json: bool) -> None:
    found = registry.models()
    if as_json:
        fields = [
            {"name": m.name, "aliases": dict(m.aliases), "about": m.description} for m in found
        ]
        terminal.print_json(fields)
        return
    rows = [
        [m.name, m.aliases.get("champion"), m.aliases.get("challenger"), m.description]
        for m in found
    ]
    terminal.print_table(["model", "champion", "challenger", "about"], rows)


def _show_versions(registry: Registry, name: str, as_json: bool) -> None:
    found = registry.versions(name, metrics=True)
    if as_json:
        terminal.print_json([_version_fields(version) for version in found])
        return
    shown = list(dict.fromkeys(key for v in found for key in v.metrics if key in HEADLINES))
    rows = [
        [
            int(v.number),
            v.stage,
            ", ".join(v.aliases),
            v.candidate,
            *(v.metrics.get(key) for key in shown),
            v.tags.get("tidemill.gate.verdict"),
            (day(v.created) or "")[:10],
        ]
        for v in found
    ]
    columns = ["version", "stage", "aliases", "candidate", *shown, "gate", "made"]
    terminal.print_table(columns, rows)


def _version_fields(version: ModelVersion) -> dict[str, Any]:
    return {
        "version": version.number,
        "stage": version.stage,
        "aliases": version.aliases,
        "candidate": version.candidate,
        "run_id": version.run_id,
        "bundle": version.digest,
        "created": version.created,
        "metrics": dict(version.metrics),
        "tags": dict(version.tags),
    }

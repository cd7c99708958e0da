"""`tidemill models`: list the registered models, or the versions of one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tidemill.cli import terminal
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import HomeOption, JsonOption, TrackingOption, open_settings
from tidemill.cli.control_plane import open_registry
from tidemill.loop.sync.missing_models import accept_missing
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import ModelVersion

HEADLINES = ("accuracy", "f1_score", "rmse", "r2")
MODELS_KEYS = (
    "name, aliases, about; with NAME: version, stage, aliases, candidate, run_id, bundle, "
    "created, metrics, tags"
)
app = command_app()


@app.command(epilog=notes(MODELS_KEYS, many=True))
def models(
    name: Annotated[str | None, typer.Argument(help="List this model's versions.")] = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    accept: Annotated[
        bool,
        typer.Option(
            "--accept-missing",
            help="Take models off the shelf that the registry no longer lists.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the registered models, or the versions of one with their stages and metrics.

    Examples:

      tidemill models

      tidemill models iris-classifier --json

      tidemill models --accept-missing
    """
    settings = open_settings(home, tracking_uri)
    if accept:
        accept_missing(settings.shelf)
    registry = open_registry(settings)
    if name is None:
        _show_models(registry, as_json)
    else:
        _show_versions(registry, name, as_json)


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
            (terminal.format_time(v.created) or "")[:10],
        ]
        for v in found
    ]
    columns = ["version", "stage", "aliases", "candidate", *shown, "gate", "created"]
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

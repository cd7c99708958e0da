"""`tidemill restore`: restore a backup."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli import terminal
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import (
    HomeOption,
    JsonOption,
    MlflowStoreOption,
    TrackingOption,
    open_settings,
)
from tidemill.loop.operations import restore as operation

app = command_app()


@app.command(epilog=notes("file, created, rows, files"))
def restore(
    file: Annotated[Path, typer.Argument(help="The backup.", exists=True, dir_okay=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace existing data.")] = False,
    reason: Annotated[str | None, typer.Option(help="Reason, for the audit log.")] = None,
    mlflow_store: MlflowStoreOption = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore a backup; stop the servers and workers of this home first.

    Examples:

      tidemill restore monday.tar --home /srv/tidemill
    """
    settings = open_settings(home, tracking_uri)
    with terminal.err.status(f"Reading {file} ..."):
        contents = operation.restore(
            settings, file, actor="cli", force=force, mlflow_store=mlflow_store, reason=reason
        )
    if as_json:
        counts = {"rows": contents.row_count, "files": len(contents.files)}
        terminal.print_json({"file": file, "created": contents.created, **counts})
        return
    created = terminal.format_time(contents.created)
    terminal.out.print(f"Restored the state of {created} UTC.", markup=False)

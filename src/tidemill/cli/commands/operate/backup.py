"""`tidemill backup`: write databases, MLflow metadata and artifacts into one file."""

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
from tidemill.loop.operations import backup as operation

app = command_app()


@app.command(epilog=notes("file, rows, files"))
def backup(
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    mlflow_store: MlflowStoreOption = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the databases, MLflow's metadata and the artifacts into one file.

    Examples:

      tidemill backup monday.tar
    """
    with terminal.err.status(f"Writing {file} ..."):
        contents = operation.backup(
            open_settings(home, tracking_uri), file, mlflow_store=mlflow_store
        )
    rows, files = contents.row_count, len(contents.files)
    if as_json:
        terminal.print_json({"file": file, "rows": rows, "files": files})
        return
    terminal.out.print(f"Wrote {file}: {rows} rows, {files} files.", markup=False)

"""`tidemill init`: write a project to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli import terminal
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import JsonOption
from tidemill.loop.training.new_project import write_project

app = command_app()


@app.command(epilog=notes("folder, files"))
def init(
    name: Annotated[
        str | None, typer.Argument(help="The folder to create, and the model's name.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", help="Your CSV file, or a gallery project such as iris."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The column to predict. [default: the last one]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Create a project: a Python file that says what to train, and a folder for its data.

    Examples:

      tidemill init churn

      tidemill init churn --from customers.csv --target churned

      tidemill init --from iris
    """
    folder = Path(name or _name_of(source))
    written = write_project(folder, source=source, target=target)
    if as_json:
        terminal.print_json({"folder": folder, "files": written})
        return
    terminal.out.print(f"Wrote [bold]{folder}[/]:")
    for path in written:
        terminal.out.print(f"  {path.relative_to(folder)}", markup=False)
    terminal.out.print(f"\nNext:\n  cd {folder}\n  tidemill train", markup=False)


def _name_of(source: str | None) -> str:
    """The folder's name where none is given: the source's."""
    if source is None:
        raise typer.BadParameter("give a NAME, or a source with --from")
    return Path(source).stem

"""`tidemill init`: a project to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli import command_help, terminal
from tidemill.cli.context import JsonOption


def register(app: typer.Typer) -> None:
    command_help.add(app, init, command_help.BEGIN, keys="folder, files")


def init(
    name: Annotated[
        str | None, typer.Argument(help="The folder to make, and the model's name.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", help="A CSV file of yours, or a gallery name such as iris."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The column to predict. [default: the last one]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a project: a Python file that says what to train, with a folder for its data.

    Examples:

      tidemill init churn

      tidemill init churn --from customers.csv --target churned

      tidemill init --from iris
    """
    from tidemill.loop.training.new_project import write_project

    folder = Path(name or source_stem(source))
    written = write_project(folder, source=source, target=target)
    if as_json:
        terminal.print_json({"folder": folder, "files": written})
        return
    terminal.out.print(f"Wrote [bold]{folder}[/]:")
    for path in written:
        terminal.out.print(f"  {path.relative_to(folder)}", markup=False)
    terminal.out.print(f"\nNext:\n  cd {folder}\n  tidemill train", markup=False)


def source_stem(source: str | None) -> str:
    """The folder's name when none is given: the source's own."""
    if source is None:
        raise typer.BadParameter("say a NAME, or where to start --from")
    return Path(source).stem

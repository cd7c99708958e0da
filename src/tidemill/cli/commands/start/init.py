"""`tidemill init`: write a project to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tidemill.cli import terminal
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import JsonOption
from tidemill.loop.training.new_project import write_project
from tidemill.signature import Task
from tidemill.steps.data.csv_dialect import describe_options
from tidemill.steps.data.table_spec import TableSpec

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
    task: Annotated[
        Task | None, typer.Option(help="What to train. [default: by the target's values]")
    ] = None,
    no_header: Annotated[
        bool, typer.Option("--no-header", help="The first line is a row: name columns c1, c2, ...")
    ] = False,
    names: Annotated[
        str | None, typer.Option(help="Names for the columns of a file without them: a,b,c.")
    ] = None,
    sep: Annotated[str | None, typer.Option(help="The separator. [default: detected]")] = None,
    decimal: Annotated[
        str | None, typer.Option(help="The decimal mark. [default: detected]")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="The file's encoding. [default: detected]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Create a project: a Python file that says what to train, and a folder for its data.

    Examples:

      tidemill init churn

      tidemill init churn --from customers.csv --target churned

      tidemill init cars --from cars.txt --names price,age,fuel --sep ";" --decimal ","

      tidemill init --from iris
    """
    folder = Path(name or _name_of(source))
    given = {"sep": sep, "decimal": decimal, "encoding": encoding}
    reading: dict[str, Any] = {option: value for option, value in given.items() if value}
    if names:
        reading["names"] = [each.strip() for each in names.split(",")]
    if no_header:
        reading["header"] = None  # as pandas says it
    project = write_project(folder, source=source, target=target, task=task, reading=reading)
    if as_json:
        terminal.print_json({"folder": folder, "files": project.files})
        return
    if source is not None and project.table is not None:
        _print_guesses(project.table)
    terminal.out.print(f"Wrote [bold]{folder}[/]:")
    for path in project.files:
        terminal.out.print(f"  {path.relative_to(folder)}", markup=False)
    terminal.out.print(f"\nNext:\n  cd {folder}\n  tidemill train", markup=False)


def _print_guesses(table: TableSpec) -> None:
    """Every column with what was inferred about it, and how the file is read."""
    rows = [(c.name, c.kind, c.missing, c.distinct, c.use) for c in table.columns]
    terminal.print_table(["column", "kind", "missing", "distinct", "use"], rows)
    for words in describe_options(table.options):
        terminal.out.print(f"Inferred: {words}.", markup=False)
    terminal.out.print(f"The task is {table.task}.", markup=False)
    terminal.out.print("All of this is stated in project.py: correct it there.\n")


def _name_of(source: str | None) -> str:
    """The folder's name where none is given: the source's."""
    if source is None:
        raise typer.BadParameter("give a NAME, or a source with --from")
    return Path(source).stem

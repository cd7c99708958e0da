"""What every command shares: the terminal, and errors as people read them."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tidemill.cli.command_help import Exit
from tidemill.errors import (
    BundleError,
    GateError,
    NotFoundError,
    SettingsError,
    TidemillError,
    UnavailableError,
)

#: Where no terminal says how wide it is, tables are not squeezed.
WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
#: Given a height too, it keeps to that width even where the terminal is a `dumb` one.
out = Console(highlight=False, width=WIDTH, height=None if WIDTH is None else 25)
err = Console(stderr=True, highlight=False)

#: What to do next, for errors that do not know it themselves.
NEXT: tuple[tuple[type[TidemillError], str], ...] = (
    (UnavailableError, "`tidemill doctor` says which part is down, and how to mend it."),
    (SettingsError, "`tidemill doctor` looks at every setting and part."),
    (NotFoundError, "`tidemill models` and `tidemill jobs` list what there is."),
    (GateError, "`tidemill models NAME` shows the versions and what the gate said of them."),
    (BundleError, "Train the model again; `tidemill doctor` looks at what is on the shelf."),
    (TidemillError, "The command's --help shows what it takes, with examples."),
)


def report_error(error: TidemillError) -> int:
    """Print the error with its remedy and give the exit code it stands for."""
    err.print(f"[bold red]{error.title}:[/] ", end="")
    err.print(error.detail, markup=False)
    if error.field and error.field not in error.detail:
        err.print(f"  field: {error.field}", markup=False)
    if error.expected:
        err.print(f"  expected: {error.expected}", markup=False)
    remedy = error.remedy or next(text for kind, text in NEXT if isinstance(error, kind))
    err.print(f"  next: {remedy}", markup=False)
    return Exit.GATE if isinstance(error, GateError) else Exit.FAILED


def report_bug(error: Exception) -> int:
    """Say in one line what nobody foresaw; the traceback goes to the log."""
    logging.getLogger("tidemill").exception("unexpected")
    folders = [h.baseFilename for h in logging.getLogger().handlers if hasattr(h, "baseFilename")]
    err.print("[bold red]Unexpected:[/] ", end="")
    err.print(f"{type(error).__name__}: {error}", markup=False)
    err.print(f"  the traceback is in {folders[0]}" if folders else traceback.format_exc())
    return Exit.FAILED


def print_json(value: Any) -> None:
    """One JSON document on standard output, for programs."""
    typer.echo(json.dumps(value, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    """A record as an object, anything else as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return msgspec.to_builtins(value) if isinstance(value, msgspec.Struct) else str(value)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """A table; numbers to the right, floats with four digits, None as a dash."""
    table = Table(title=title or None, title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    held = [list(row) for row in rows]
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float | None) for row in held)
        table.add_column(column, justify="right" if numeric and held else "left")
    for row in held:
        table.add_row(*(_cell(value) for value in row))
    out.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)

"""What commands print: tables, JSON, times and errors."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
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

#: Wide tables are not squeezed where standard output is no terminal, such as in a pipe.
WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
#: Rich ignores the width of a terminal of type `dumb` unless it is given a height too.
out = Console(highlight=False, width=WIDTH, height=None if WIDTH is None else 25)
err = Console(stderr=True, highlight=False)

#: The next step for errors that have no remedy of their own.
NEXT_STEPS: tuple[tuple[type[TidemillError], str], ...] = (
    (UnavailableError, "Run `tidemill doctor` to see which part is down and how to fix it."),
    (SettingsError, "Run `tidemill doctor` to check every setting and part."),
    (NotFoundError, "List what exists with `tidemill models` or `tidemill jobs`."),
    (GateError, "See the versions and their gate verdicts with `tidemill models NAME`."),
    (BundleError, "Train the model again; `tidemill doctor` checks the bundles on the shelf."),
    (TidemillError, "See the command's --help for its options and examples."),
)


def report_error(error: TidemillError) -> int:
    """Print the error with its remedy, and return the command's exit code."""
    err.print(f"[bold red]{error.title}:[/] ", end="")
    err.print(error.detail, markup=False)
    if error.field and error.field not in error.detail:
        err.print(f"  field: {error.field}", markup=False)
    if error.expected:
        err.print(f"  expected: {error.expected}", markup=False)
    remedy = error.remedy or next(text for kind, text in NEXT_STEPS if isinstance(error, kind))
    err.print(f"  next: {remedy}", markup=False)
    return Exit.GATE if isinstance(error, GateError) else Exit.FAILED


def report_bug(error: Exception) -> int:
    """Print an unexpected error in one line; the traceback goes to the log file if there is one."""
    logging.getLogger("tidemill").exception("unexpected error")
    files = [h.baseFilename for h in logging.getLogger().handlers if hasattr(h, "baseFilename")]
    err.print("[bold red]Unexpected error:[/] ", end="")
    err.print(f"{type(error).__name__}: {error}", markup=False)
    err.print(f"  the traceback is in {files[0]}" if files else traceback.format_exc())
    return Exit.FAILED


def print_json(value: Any) -> None:
    """Print one JSON document to standard output."""
    typer.echo(json.dumps(value, indent=2, default=_to_plain))


def _to_plain(value: Any) -> Any:
    """A dataclass or Struct as an object, anything else as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return msgspec.to_builtins(value) if isinstance(value, msgspec.Struct) else str(value)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Print a table: numbers are right-aligned, floats have four decimals, None is a dash."""
    table = Table(title=title or None, title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    shown = [list(row) for row in rows]
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float | None) for row in shown)
        table.add_column(column, justify="right" if numeric and shown else "left")
    for row in shown:
        table.add_row(*(_format_cell(value) for value in row))
    out.print(table)


def format_time(seconds: float | None) -> str | None:
    """Seconds since the epoch as `2026-01-31 12:00`, in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _format_cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)

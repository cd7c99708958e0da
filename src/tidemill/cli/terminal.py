"""What every command shares: the console, errors as people read them, and exit codes.

Exit codes: 0 done; 1 refused or failed, with the reason; 2 the command line itself is wrong;
3 the gate stayed closed; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tidemill.errors import GateError, TidemillError

#: Where no terminal says how wide it is, tables are not squeezed.
WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
#: Given a height too, it keeps to that width even where the terminal is a `dumb` one.
out = Console(highlight=False, width=WIDTH, height=None if WIDTH is None else 25)
err = Console(stderr=True, highlight=False)

EXIT_FAILED = 1
EXIT_GATE = 3
EXIT_INTERRUPTED = 130


def report_error(error: TidemillError) -> int:
    """Print the error with its remedy and give the exit code it stands for."""
    err.print(f"[bold red]{error.title}:[/] ", end="")
    err.print(error.detail, markup=False)
    if error.expected:
        err.print(f"  expected: {error.expected}", markup=False)
    if error.remedy:
        err.print(f"  next: {error.remedy}", markup=False)
    return EXIT_GATE if isinstance(error, GateError) else EXIT_FAILED


def report_bug(error: Exception) -> int:
    """Say in one line what nobody foresaw; the traceback goes to the log."""
    logging.getLogger("tidemill").exception("unexpected")
    folders = [h.baseFilename for h in logging.getLogger().handlers if hasattr(h, "baseFilename")]
    err.print("[bold red]Unexpected:[/] ", end="")
    err.print(f"{type(error).__name__}: {error}", markup=False)
    err.print(f"  the traceback is in {folders[0]}" if folders else traceback.format_exc())
    return EXIT_FAILED


def print_json(value: Any) -> None:
    """One JSON document on standard output, for programs."""
    typer.echo(json.dumps(value, indent=2, default=str))


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

"""`tidemill ingest`: store recorded predictions in the database."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from tidemill.cli import terminal
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import HomeOption, JsonOption, open_settings, start_logs
from tidemill.loop.ingest import process
from tidemill.loop.ingest.drain import Ingest
from tidemill.loop.operations.signals import stop_event

app = command_app()


@app.command(epilog=notes("rows, duplicates, rejected, damaged_bytes, unreadable, errors"))
def ingest(
    once: Annotated[
        bool, typer.Option("--once", help="Store what is recorded now, then exit.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store the predictions that servers record, until Ctrl-C.

    Every prediction is stored exactly once, however often this is stopped and started, and several
    may run at once. `tidemill up` runs one. Predictions older than the retention settings allow are
    deleted.

    Examples:

      tidemill ingest

      tidemill ingest --once
    """
    settings = open_settings(home)
    start_logs(settings, "ingest", console=not once)
    process.reduce_gc()
    if not once:
        terminal.err.print(f"Ingesting from {settings.journal}. Ctrl-C stops it.", markup=False)
        with stop_event() as stop:
            process.run(settings, stop)
        return
    with process.open_ingest(settings) as (worker, _):
        _drain(worker)
    counts = vars(worker.counts)
    if as_json:
        terminal.print_json(counts)
    else:
        text = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items())
        terminal.out.print(f"Stored: {text}.", markup=False)


def _drain(worker: Ingest) -> None:
    columns = (TextColumn("storing"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal.err, transient=True) as bar:
        task = bar.add_task("storing", total=worker.backlog())
        worker.drain(lambda size: bar.advance(task, size))

"""Commands about predictions: ingest, labels, export."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from tidemill.cli import console
from tidemill.cli.context import HomeOption, JsonOption, open_settings, start_logs

if TYPE_CHECKING:
    from tidemill.loop.drain import Ingest


def register(app: typer.Typer) -> None:
    for command in (ingest,):
        app.command(rich_help_panel="Watch")(command)


def ingest(
    once: Annotated[bool, typer.Option("--once", help="Store what is there, and end.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store the predictions that servers have recorded, until Ctrl-C.

    Every prediction is stored exactly once, however often this is stopped or started; several may
    run. `tidemill up` runs one by itself. Old predictions are deleted as the settings say.

    Examples:

      tidemill ingest

      tidemill ingest --once
    """
    from tidemill.loop import ingest as process

    settings = open_settings(home)
    start_logs(settings, "ingest", console=not once)
    process.prefer_throughput()
    if once:
        with process.opened(settings) as (worker, _):
            _drain(worker)
        counts = vars(worker.counts)
        if as_json:
            console.print_json(counts)
        else:
            words = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items())
            console.out.print(f"Stored: {words}.", markup=False)
        return
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    console.err.print(f"Storing what comes to {settings.journal}. Ctrl-C ends it.", markup=False)
    process.run(settings, stop)


def _drain(worker: Ingest) -> None:
    columns = (TextColumn("storing"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console.err, transient=True) as bar:
        task = bar.add_task("storing", total=worker.backlog())
        worker.drain(lambda size: bar.advance(task, size))

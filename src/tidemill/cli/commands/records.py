"""Commands about predictions: ingest, labels, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from tidemill.cli import command_help, terminal
from tidemill.cli.commands.operate import platform_of
from tidemill.cli.context import HomeOption, JsonOption, open_settings, start_logs
from tidemill.loop.operations.signals import stop_event

if TYPE_CHECKING:
    from tidemill.loop.ingest.drain import Ingest


FEEDBACK_KEYS = (
    "the labels that were joined, waiting, duplicate, conflict, replaced, refused, "
    "expired, left_out"
)


def register(app: typer.Typer) -> None:
    command_help.add(
        app,
        ingest,
        command_help.WATCH,
        keys="rows, duplicates, rejected, damaged_bytes, unreadable, errors",
    )
    command_help.add(app, feedback, command_help.WATCH, keys=FEEDBACK_KEYS)
    command_help.add(app, export, command_help.WATCH, keys="model, day, rows, labels", many=True)


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
    from tidemill.loop.ingest import process

    settings = open_settings(home)
    start_logs(settings, "ingest", console=not once)
    process.reduce_gc()
    if once:
        with process.open_ingest(settings) as (worker, _):
            _drain(worker)
        counts = vars(worker.counts)
        if as_json:
            terminal.print_json(counts)
        else:
            words = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items())
            terminal.out.print(f"Stored: {words}.", markup=False)
        return
    terminal.err.print(f"Storing what comes to {settings.journal}. Ctrl-C ends it.", markup=False)
    with stop_event() as stop:
        process.run(settings, stop)


def feedback(
    file: Annotated[Path, typer.Argument(help="A CSV file with a header.", dir_okay=False)],
    id_column: Annotated[
        str | None, typer.Option("--id", help="The column of ids. [default: id or prediction_id]")
    ] = None,
    actual_column: Annotated[
        str | None,
        typer.Option("--actual", help="The column of labels. [default: actual, label or target]"),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Correct earlier labels.")] = False,
    keep_going: Annotated[
        bool, typer.Option(help="Leave out lines without an id or a label instead of stopping.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what turned out to be true: join a file of labels to the predictions by their ids.

    Labels of predictions that are not stored yet wait for them. Giving a file twice does no harm.
    Exit 1 when labels were refused or contradict earlier ones.

    Examples:

      tidemill feedback labels.csv

      tidemill feedback outcomes.csv --id prediction_id --actual churned --replace
    """
    from tidemill.cli.label_file import LabelFile
    from tidemill.stores.predictions.feedback import CONFLICT, REFUSED

    with platform_of(open_settings(home)) as platform:
        labels = LabelFile(file, id_column, actual_column, replace, keep_going)
        outcomes, reasons = labels.send(platform.feedback)
    if as_json:
        terminal.print_json({**outcomes, "left_out": labels.left_out})
    else:
        terminal.print_table(["outcome", "labels"], sorted(outcomes.items()))
        for reason in reasons:
            terminal.err.print(reason, markup=False)
        if labels.left_out:
            terminal.err.print(f"{labels.left_out} lines had no id or no label.")
    if outcomes[CONFLICT] or outcomes[REFUSED]:
        raise typer.Exit(command_help.Exit.FAILED)


def export(
    url: Annotated[str, typer.Argument(help="A folder, s3://BUCKET/PREFIX or gs://...")],
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Only this model; may be repeated.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write predictions with their labels as Parquet files, one for each model and day.

    Only days that changed since the last export to the same place are written. With
    TIDEMILL_EXPORT_URL set, retention does this by itself before it deletes anything.

    Examples:

      tidemill export history

      tidemill export s3://bucket/predictions --model churn
    """
    from tidemill.loop.ingest.archive import PredictionArchive

    with (
        platform_of(open_settings(home)) as platform,
        terminal.err.status("Exporting ...") as shown,
    ):
        days = PredictionArchive(platform.database, url).run(
            model or (),
            progress=lambda day, number, count: shown.update(
                f"{day.model}, {day.date}: day {number + 1} of {count}"
            ),
        )
    rows = [[day.model, day.date, day.rows, day.labels] for day in days]
    if as_json:
        fields = ("model", "day", "rows", "labels")
        terminal.print_json([dict(zip(fields, row, strict=True)) for row in rows])
    elif rows:
        terminal.print_table(["model", "day", "rows", "labels"], rows)
    else:
        terminal.out.print("Nothing changed since the last export.")


def _drain(worker: Ingest) -> None:
    columns = (TextColumn("storing"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal.err, transient=True) as bar:
        task = bar.add_task("storing", total=worker.backlog())
        worker.drain(lambda size: bar.advance(task, size))

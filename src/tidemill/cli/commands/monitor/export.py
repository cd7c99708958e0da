"""`tidemill export`: write predictions and their labels as Parquet files."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli import terminal
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import HomeOption, JsonOption, open_settings
from tidemill.cli.control_plane import open_platform
from tidemill.loop.ingest.archive import PredictionArchive

FIELDS = ("model", "day", "rows", "labels")
app = command_app()


@app.command(epilog=notes("model, day, rows, labels", many=True))
def export(
    url: Annotated[str, typer.Argument(help="A folder, s3://BUCKET/PREFIX or gs://...")],
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Only this model. May be repeated.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write predictions with their labels as Parquet files, one per model and day.

    Only days that changed since the last export to the same place are written. With
    TIDEMILL_EXPORT_URL set, retention exports predictions before it deletes them.

    Examples:

      tidemill export history

      tidemill export s3://bucket/predictions --model churn
    """
    with (
        open_platform(open_settings(home)) as platform,
        terminal.err.status("Exporting ...") as status,
    ):
        days = PredictionArchive(platform.database, url).run(
            model or (),
            progress=lambda day, number, count: status.update(
                f"{day.model}, {day.date}: day {number + 1} of {count}"
            ),
        )
    rows = [[day.model, day.date, day.rows, day.labels] for day in days]
    if as_json:
        terminal.print_json([dict(zip(FIELDS, row, strict=True)) for row in rows])
    elif rows:
        terminal.print_table(FIELDS, rows)
    else:
        terminal.out.print("Nothing has changed since the last export.")

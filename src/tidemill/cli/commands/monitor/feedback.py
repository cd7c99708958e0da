"""`tidemill feedback`: join a file of labels to the stored predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli import terminal
from tidemill.cli.command_help import Exit, command_app, notes
from tidemill.cli.context import HomeOption, JsonOption, open_settings
from tidemill.cli.control_plane import open_platform
from tidemill.cli.label_file import LabelFile
from tidemill.stores.predictions.label_joins import CONFLICT, REFUSED

FEEDBACK_KEYS = (
    "the labels that were joined, waiting, duplicate, conflict, replaced, refused, "
    "expired, left_out"
)
app = command_app()


@app.command(epilog=notes(FEEDBACK_KEYS))
def feedback(
    file: Annotated[Path, typer.Argument(help="A CSV file with a header.", dir_okay=False)],
    id_column: Annotated[
        str | None,
        typer.Option("--id", help="The column of prediction ids. [default: id or prediction_id]"),
    ] = None,
    actual_column: Annotated[
        str | None,
        typer.Option("--actual", help="The column of labels. [default: actual, label or target]"),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Correct earlier labels.")] = False,
    keep_going: Annotated[
        bool, typer.Option(help="Skip lines without an id or a label instead of stopping.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Join a file of labels to the stored predictions by prediction id.

    Labels of predictions that are not stored yet wait for them. Sending a file twice is safe.
    Exit 1 if labels were refused or contradict earlier ones.

    Examples:

      tidemill feedback labels.csv

      tidemill feedback outcomes.csv --id prediction_id --actual churned --replace
    """
    labels = LabelFile(file, id_column, actual_column, replace, keep_going)
    with open_platform(open_settings(home)) as platform:
        outcomes, reasons = labels.send(platform.feedback)
    if as_json:
        terminal.print_json({**outcomes, "left_out": labels.left_out})
    else:
        terminal.print_table(["outcome", "labels"], sorted(outcomes.items()))
        for reason in reasons:
            terminal.err.print(reason, markup=False)
        if labels.left_out:
            terminal.err.print(f"Skipped {labels.left_out} lines without an id or a label.")
    if outcomes[CONFLICT] or outcomes[REFUSED]:
        raise typer.Exit(Exit.FAILED)

"""`tidemill predict`: score a file."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tidemill.cli import command_help, terminal
from tidemill.cli.context import HomeOption, JsonOption, TrackingOption, open_settings
from tidemill.cli.row_files import CsvRows, RowChunk, open_rows, read_rows
from tidemill.errors import InputError

if TYPE_CHECKING:
    from tidemill.serving.model.scorer import Scorer
    from tidemill.settings import Settings

CHUNK = 1000


def register(app: typer.Typer) -> None:
    command_help.add(app, predict, command_help.SERVE, keys="output, rows, refused")


def predict(
    model: Annotated[str, typer.Argument(help="A registered model, or models:/name@alias.")],
    rows: Annotated[Path, typer.Argument(help="A CSV file with the model's columns by name.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The CSV file to write.")],
    keep_going: Annotated[
        bool, typer.Option(help="Write refused rows with their reason instead of stopping.")
    ] = False,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a file of rows with a model, without a server.

    The output has the input's columns, then prediction, confidence and a probability for every
    label. Columns the model does not know are carried along. An empty cell is a missing value.
    The file's encoding and separator are found out; where the separator is no comma, 1,5 is a
    number too. What is written is UTF-8 with commas.

    Examples:

      tidemill predict churn rows.csv -o scored.csv

      tidemill predict models:/churn/3 rows.csv -o scored.csv --keep-going
    """
    settings = open_settings(home, tracking_uri)
    _check_files(rows, output)
    scorer = open_scorer(settings, model)
    draft = output.with_name(f".{output.name}.part")
    try:
        with open_rows(rows) as source, draft.open("w", newline="", encoding="utf-8") as out:
            done, refused = score_file(scorer, source, out, rows.stat().st_size, keep_going)
        draft.replace(output)
    except OSError as error:
        raise InputError(
            f"{error.filename or output}: {error.strerror}.", field="output"
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    if as_json:
        terminal.print_json({"output": output, "rows": done, "refused": refused})
        return
    terminal.out.print(f"Wrote {done} rows to {output}.", markup=False, soft_wrap=True)
    if refused:
        terminal.err.print(f"{refused} of them were refused; the column 'error' says why.")


def _check_files(rows: Path, output: Path) -> None:
    if not rows.is_file():
        raise InputError(f"There is no file {rows}.", field="rows")
    if not output.parent.is_dir() or output.is_dir():
        what = "is a folder" if output.is_dir() else f"has no folder {output.parent} to be put into"
        raise InputError(f"{output} {what}.", field="output", expected="a file to write")


def open_scorer(settings: Settings, model: str) -> Scorer:
    """The model as a function, its bundle brought to the shelf if it is not there."""
    from tidemill.cli.local.shelving import shelve
    from tidemill.serving.model.scorer import Scorer
    from tidemill.serving.shelf.shelf import open_bundle

    name, placed = shelve(settings, model)
    return Scorer(open_bundle(settings.shelf, placed), name, placed.version)


def score_file(
    scorer: Scorer, source: TextIO, out: TextIO, size: int, keep_going: bool
) -> tuple[int, int]:
    """Score every row with a progress bar; how many rows were written, and how many refused.

    Raises:
        InputError: A column is missing, or a row does not fit and `keep_going` is off.
    """
    reader = read_rows(source, input_columns(scorer))
    given = list(reader.names)
    labels = [f"probability_{label}" for label in scorer.signature.labels]
    made = ["prediction", *(["confidence", *labels] if labels else []), *["error"] * keep_going]
    writer = csv.DictWriter(out, [*given, *(name for name in made if name not in given)])
    writer.writeheader()
    done = refused = 0
    with _bar() as bar:
        task = bar.add_task("scoring", total=size, rows=0)
        for chunk in _chunks(reader):
            refused += _score_chunk(scorer, chunk, reader.decimal, labels, keep_going)
            writer.writerows(record for _, record in chunk)
            done += len(chunk)
            bar.update(task, completed=source.buffer.tell(), rows=done)
        bar.update(task, completed=size, rows=done)
    return done, refused


def input_columns(scorer: Scorer) -> list[str]:
    """The columns a file needs; a tensor's numbers are its columns name0, name1, ..."""
    tensor = scorer.signature.tensor
    if tensor is None:
        return list(scorer.signature.names)
    return [f"{tensor.name}{index}" for index in range(tensor.size)]


def _score_chunk(
    scorer: Scorer, chunk: RowChunk, decimal: str, labels: list[str], keep_going: bool
) -> int:
    """Add the answers to the rows, in place; how many were refused."""
    good, rows = [], []
    for number, record in chunk:
        try:
            rows.append(_checked(scorer, record, decimal))
            good.append(record)
        except InputError as error:
            if not keep_going:
                raise InputError(
                    f"Line {number}: {error.detail}",
                    field=error.field,
                    expected=error.expected,
                    remedy="Mend the row, or pass --keep-going.",
                ) from error
            record["error"] = error.detail
    for record, answer in zip(good, scorer.score(rows) if rows else [], strict=True):
        record["prediction"] = answer.prediction
        if answer.probabilities is not None:
            record["confidence"] = max(answer.probabilities)
            record.update(zip(labels, answer.probabilities, strict=True))
    return len(chunk) - len(good)


def _checked(scorer: Scorer, record: dict[str, Any], decimal: str) -> list[Any]:
    """A line of text as a row of the signature."""
    from tidemill.cli.row_files import read_cell
    from tidemill.serving.codec.values import coerce
    from tidemill.signature import Column

    if None in record or any(value is None for value in record.values()):
        raise InputError("The line has more or fewer cells than the header.")
    tensor = scorer.signature.tensor
    columns = (
        [Column(name, "number") for name in input_columns(scorer)]
        if tensor
        else scorer.signature.columns
    )
    return [
        coerce(column, read_cell(column.kind, record[column.name], decimal)) for column in columns
    ]


def _chunks(rows: CsvRows) -> Iterator[RowChunk]:
    lines = iter(rows)
    while chunk := list(itertools.islice(lines, CHUNK)):
        yield chunk


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]} rows"),
    )
    return Progress(*columns, TimeRemainingColumn(), console=terminal.err, transient=True)

"""Score a CSV file row by row with a model's bundle, without a server."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from typing import Any, TextIO

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tidemill.cli import terminal
from tidemill.cli.row_files import CsvRows, RowChunk, read_cell, read_rows
from tidemill.errors import InputError
from tidemill.serving.codec.values import coerce
from tidemill.serving.model.scorer import Scorer
from tidemill.signature import Column

CHUNK = 1000


def score_file(
    scorer: Scorer, source: TextIO, out: TextIO, size: int, keep_going: bool
) -> tuple[int, int]:
    """Score every row, with a progress bar.

    Args:
        size: The source's size in bytes, for the progress bar.
        keep_going: Whether to write refused rows with their error instead of stopping.

    Returns:
        The number of rows written, and how many of them were refused.

    Raises:
        InputError: A column is missing, or a row is refused and `keep_going` is off.
    """
    reader = read_rows(source, input_columns(scorer))
    given = list(reader.names)
    labels = [f"probability_{label}" for label in scorer.signature.labels]
    added = ["prediction", *(["confidence", *labels] if labels else []), *["error"] * keep_going]
    names = output_names(added, given)
    writer = csv.DictWriter(out, [*given, *names.values()])
    writer.writeheader()
    done = refused = 0
    with _progress_bar() as bar:
        task = bar.add_task("scoring", total=size, rows=0)
        for chunk in _chunks(reader):
            refused += _score_chunk(scorer, chunk, reader.decimal, names, keep_going)
            writer.writerows(record for _, record in chunk)
            done += len(chunk)
            bar.update(task, completed=source.buffer.tell(), rows=done)
        bar.update(task, completed=size, rows=done)
    return done, refused


def output_names(added: list[str], given: list[str]) -> dict[str, str]:
    """The names of the columns that scoring adds: with "model_" before those that the file has."""
    names: dict[str, str] = {}
    for column in added:
        name = column
        while name in given or name in names.values():
            name = f"model_{name}"
        names[column] = name
    return names


def input_columns(scorer: Scorer) -> list[str]:
    """The columns that a file needs; the columns of a tensor are name0, name1, ..."""
    tensor = scorer.signature.tensor
    if tensor is None:
        return list(scorer.signature.names)
    return [f"{tensor.name}{index}" for index in range(tensor.size)]


def _score_chunk(
    scorer: Scorer, chunk: RowChunk, decimal: str, names: dict[str, str], keep_going: bool
) -> int:
    """Add predictions or errors to the records in place; returns how many rows were refused.

    Args:
        names: The names of the columns that are added, see `output_names`.
    """
    labels = [name for column, name in names.items() if column.startswith("probability_")]
    good, rows = [], []
    for number, record in chunk:
        try:
            rows.append(_parse_record(scorer, record, decimal))
            good.append(record)
        except InputError as error:
            if not keep_going:
                raise InputError(
                    f"Line {number}: {error.detail}",
                    field=error.field,
                    expected=error.expected,
                    remedy="Fix the row, or pass --keep-going.",
                ) from error
            record[names["error"]] = error.detail
    for record, answer in zip(good, scorer.score(rows) if rows else [], strict=True):
        record[names["prediction"]] = answer.prediction
        if answer.probabilities is not None:
            record[names["confidence"]] = max(answer.probabilities)
            record.update(zip(labels, answer.probabilities, strict=True))
    return len(chunk) - len(good)


def _parse_record(scorer: Scorer, record: dict[str, Any], decimal: str) -> list[Any]:
    """The record's cells as a row of the model's signature."""
    if None in record or any(value is None for value in record.values()):
        raise InputError("The line has more or fewer cells than the header.")
    tensor = scorer.signature.tensor
    columns = (
        [Column(name, "number") for name in input_columns(scorer)]
        if tensor
        else scorer.signature.columns
    )
    return [
        coerce(column, read_cell(column.kind, record[column.name], decimal, column.categories))
        for column in columns
    ]


def _chunks(rows: CsvRows) -> Iterator[RowChunk]:
    lines = iter(rows)
    while chunk := list(itertools.islice(lines, CHUNK)):
        yield chunk


def _progress_bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]} rows"),
    )
    return Progress(*columns, TimeRemainingColumn(), console=terminal.err, transient=True)

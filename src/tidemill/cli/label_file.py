"""Send a CSV file of labels to the feedback store in chunks of a thousand lines."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TextIO

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tidemill.cli import terminal
from tidemill.errors import InputError, RequestError
from tidemill.stores.predictions.feedback import Feedback, NewLabel
from tidemill.stores.predictions.label_joins import CONFLICT, REFUSED

CHUNK = 1_000
IDS, ACTUALS = ("id", "prediction_id"), ("actual", "label", "target")
MOST_REASONS = 5


class LabelFile:
    """A CSV file of prediction ids and labels.

    Args:
        id_column, actual_column: Column names; None for the usual names `IDS` and `ACTUALS`.
        replace: Whether the labels correct earlier ones.
        keep_going: Whether to skip lines without an id or a label, counting them in `left_out`.
    """

    def __init__(
        self,
        path: Path,
        id_column: str | None = None,
        actual_column: str | None = None,
        replace: bool = False,
        keep_going: bool = False,
    ) -> None:
        self._path = path
        self._columns = (id_column, actual_column)
        self._replace = replace
        self._keep_going = keep_going
        self.left_out = 0

    def send(self, feedback: Feedback) -> tuple[Counter[str], list[str]]:
        """Send all labels, with a progress bar.

        Returns:
            The number of labels by outcome, and the first few reasons for refusals and conflicts.

        Raises:
            InputError: The file is missing or not text, lacks a column, or a line has no id or no
                label. The lines before it are stored; sending the file again is safe.
        """
        outcomes: Counter[str] = Counter()
        reasons: list[str] = []
        if not self._path.is_file():
            raise InputError(f"There is no file {self._path}.", field="file")
        try:
            with self._path.open(newline="", encoding="utf-8-sig") as file, _progress_bar() as bar:
                source: TextIO = file
                task = bar.add_task("joining", total=self._path.stat().st_size, labels=0)
                for lines in self._chunks(source):
                    self._send(feedback, lines, outcomes, reasons)
                    done = sum(outcomes.values())
                    bar.update(task, completed=source.buffer.tell(), labels=done)
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(
                f"{self._path} is not valid CSV: {error}", expected="a CSV file in UTF-8"
            ) from error
        return outcomes, reasons

    def _send(
        self,
        feedback: Feedback,
        lines: Sequence[tuple[int, NewLabel]],
        outcomes: Counter[str],
        reasons: list[str],
    ) -> None:
        try:
            results = feedback.add([label for _, label in lines])
        except RequestError as error:
            index = int(str(error.field).partition(".")[0])
            raise InputError(
                f"Line {lines[index][0]}: {error.detail}", expected=error.expected
            ) from error
        for (number, _), result in zip(lines, results, strict=True):
            outcomes[result.outcome] += 1
            if result.outcome in (CONFLICT, REFUSED) and len(reasons) < MOST_REASONS:
                reasons.append(f"Line {number}: {result.reason}")

    def _chunks(self, source: TextIO) -> Iterator[list[tuple[int, NewLabel]]]:
        labels = self._labels(source)
        while chunk := list(islice(labels, CHUNK)):
            yield chunk

    def _labels(self, source: TextIO) -> Iterator[tuple[int, NewLabel]]:
        reader = csv.DictReader(source)
        names = list(reader.fieldnames or [])
        id_column = _column(self._columns[0], IDS, names, "--id")
        actual_column = _column(self._columns[1], ACTUALS, names, "--actual")
        for record in reader:
            id, actual = (record[id_column] or "").strip(), (record[actual_column] or "").strip()
            if id and actual:
                yield reader.line_num, NewLabel(id, actual, self._replace)
            elif self._keep_going:
                self.left_out += 1
            else:
                raise InputError(
                    f"Line {reader.line_num} has no {actual_column if id else id_column}.",
                    remedy="Fix the line, or pass --keep-going.",
                )


def _column(requested: str | None, usual: Sequence[str], names: Sequence[str], option: str) -> str:
    """The requested column, or the first of the usual names that the file has.

    Raises:
        InputError: The file has none of them.
    """
    found = next((name for name in ([requested] if requested else usual) if name in names), None)
    if found is None:
        raise InputError(
            f"The file has no column '{requested or usual[0]}'.",
            field=option,
            expected=f"one of {', '.join(repr(name) for name in names[:20])}",
            remedy=f"Name the column with {option}.",
        )
    return found


def _progress_bar() -> Progress:
    counted = TextColumn("{task.fields[labels]} labels")
    columns = (TextColumn("{task.description}"), BarColumn(), counted, TimeRemainingColumn())
    return Progress(*columns, console=terminal.err, transient=True)

"""Read a CSV file of rows to score: its encoding, separator, decimal mark and cells."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from tidemill.errors import InputError
from tidemill.serving.codec.values import parse_cell
from tidemill.signature import Kind, Value
from tidemill.steps.data.csv_dialect import SEPARATORS, detect_encoding

#: Rows by column name, each with the number of the line it ends on.
RowChunk: TypeAlias = "list[tuple[int, dict[str, Any]]]"
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")


@dataclass(frozen=True)
class CsvRows:
    """The rows after a file's header. `decimal` is the decimal mark that numbers may have."""

    names: tuple[str, ...]
    reader: csv.DictReader[str]
    decimal: str

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each row with the number of the line it ends on.

        Raises:
            InputError: The file is not text, or a quoted cell is never closed.
        """
        try:
            for record in self.reader:
                yield self.reader.line_num, dict(record)
        except (csv.Error, UnicodeError) as error:
            raise InputError(
                f"Line {self.reader.line_num + 1} is not valid CSV: {error}.", field="rows"
            ) from error


def open_rows(path: Path) -> TextIO:
    """Open the file as text in the encoding detected."""
    encoding = detect_encoding(path)
    return path.open(newline="", encoding="utf-8-sig" if encoding == "utf-8" else encoding)


def read_rows(source: TextIO, required: Sequence[str]) -> CsvRows:
    """The rows of an open file; the separator is the one that finds most of the columns.

    Raises:
        InputError: The file is empty, lacks a required column, or has one twice.
    """
    headers = {separator: _header(source, separator) for separator in SEPARATORS}
    separator = max(SEPARATORS, key=lambda each: len(set(required) & set(headers[each])))
    names = headers[separator]
    if not names:
        raise InputError("The file is empty.", field="rows", expected="a header of column names")
    if missing := [name for name in required if name not in names]:
        raise InputError(
            f"The file has no column {', '.join(map(repr, missing[:10]))}.",
            field=missing[0],
            expected=f"the columns {', '.join(required[:30])}",
        )
    if twice := [name for name in required if names.count(name) > 1]:
        raise InputError(f"The file has the column {twice[0]!r} more than once.", field=twice[0])
    reader = csv.DictReader(source, delimiter=separator)
    return CsvRows(tuple(reader.fieldnames or ()), reader, "." if separator == "," else ",")


def _header(source: TextIO, separator: str) -> list[str]:
    """The column names under this separator; the file is back at its start afterwards."""
    source.seek(0)
    try:
        return next(csv.reader(source, delimiter=separator), [])
    except csv.Error:
        return []
    finally:
        source.seek(0)


def read_cell(
    kind: Kind, text: str, decimal: str, categories: Collection[str] | None = None
) -> Value:
    """The value of a cell; `decimal` is the decimal mark that a number may have."""
    if decimal == "," and kind == "number" and _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    return parse_cell(kind, text, categories)

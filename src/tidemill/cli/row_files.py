"""A file of rows to score: how it is written, and its rows one by one."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from tidemill.errors import InputError
from tidemill.signature import Kind, Value

#: Some rows by column name, each with the number of the line it ends on.
RowChunk: TypeAlias = "list[tuple[int, dict[str, Any]]]"
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")


@dataclass(frozen=True)
class CsvRows:
    """What comes after a file's first line. `decimal` is the mark that numbers may have."""

    names: tuple[str, ...]
    reader: csv.DictReader[str]
    decimal: str

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The line each row ends on, and the row.

        Raises:
            InputError: The file is not text, or a cell of it has no end.
        """
        try:
            for record in self.reader:
                yield self.reader.line_num, dict(record)
        except (csv.Error, UnicodeError) as error:
            raise InputError(
                f"Line {self.reader.line_num + 1} cannot be read as CSV: {error}.", field="rows"
            ) from error


def open_rows(path: Path) -> TextIO:
    """The file as text, in the encoding that fits it."""
    from tidemill.steps.data.encoding import detect_encoding

    encoding = detect_encoding(path)
    return path.open(newline="", encoding="utf-8-sig" if encoding == "utf-8" else encoding)


def read_rows(source: TextIO, needed: Sequence[str]) -> CsvRows:
    """The rows of an open file, which must have the needed columns.

    Raises:
        InputError: It is empty, lacks a column, or has one twice.
    """
    from tidemill.steps.data.encoding import SEPARATORS

    headers = {separator: _header(source, separator) for separator in SEPARATORS}
    separator = max(SEPARATORS, key=lambda each: len(set(needed) & set(headers[each])))
    names = headers[separator]
    if not names:
        raise InputError("The file is empty.", field="rows", expected="a line of column names")
    if missing := [name for name in needed if name not in names]:
        raise InputError(
            f"The file has no column {', '.join(map(repr, missing[:10]))}.",
            field=missing[0],
            expected=f"the columns {', '.join(needed[:30])}",
        )
    if twice := [name for name in needed if names.count(name) > 1]:
        raise InputError(f"The file has several columns {twice[0]!r}.", field=twice[0])
    reader = csv.DictReader(source, delimiter=separator)
    return CsvRows(tuple(reader.fieldnames or ()), reader, "." if separator == "," else ",")


def _header(source: TextIO, separator: str) -> list[str]:
    """The first line's names under this separator; the file is at its start again."""
    source.seek(0)
    try:
        return next(csv.reader(source, delimiter=separator), [])
    except csv.Error:
        return []
    finally:
        source.seek(0)


def read_cell(kind: Kind, text: str, decimal: str) -> Value:
    """The value that a cell stands for, where a number may have this decimal mark."""
    from tidemill.serving.codec.values import parse_cell as read

    if decimal == "," and kind == "number" and _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    return read(kind, text)

"""How a CSV file is written: its separator, its decimal mark, its encoding."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import pandas as pd

from tidemill.errors import DataError
from tidemill.sources import csv

SEPARATORS = (",", ";", "\t", "|")
_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SAMPLED_ROWS = 100_000  # rows that guesses about a table rest on
_DECIMAL_COMMA = r"\s*[-+]?\d+,\d+\s*"


def read_table(path: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """The first rows of a CSV file, and what `pandas.read_csv` needs to be told to read it.

    Raises:
        DataError: It is no table with a header, two columns and a row.
    """
    options = csv_options(path)
    more: dict[str, Any] = {"nrows": SAMPLED_ROWS, **options}
    frame = csv(path, **more).load()
    if frame.shape[1] < 2 or frame.empty:
        raise DataError(
            f"{path} holds {frame.shape[1]} columns and {len(frame)} rows.",
            field="data",
            expected="a line of column names, then rows of two columns or more",
        )
    if all(_is_number(name) for name in frame.columns):
        raise DataError(
            f"The first line of {path} holds numbers only.",
            field="data",
            expected="a line of column names",
        )
    return frame, options


def csv_options(path: Path) -> dict[str, str]:
    """Options of `pandas.read_csv` that differ from its defaults, best guess."""
    encoding = detect_encoding(path)
    options = {} if encoding == "utf-8" else {"encoding": encoding}
    widths = {separator: _width(path, separator, options) for separator in SEPARATORS}
    separator = max(SEPARATORS, key=lambda each: widths[each])
    if separator == ",":
        return options
    options["sep"] = separator
    first = pd.read_csv(path, nrows=1000, **options)  # type: ignore[call-overload]
    texts = first.select_dtypes(include=["object", "string"])
    if any(texts[name].dropna().astype(str).str.fullmatch(_DECIMAL_COMMA).all() for name in texts):
        options["decimal"] = ","
    return options


def _width(path: Path, separator: str, options: dict[str, str]) -> int:
    """How many columns the file has under this separator; 0 when it does not fit."""
    more: Any = options
    try:
        return int(pd.read_csv(path, sep=separator, nrows=1000, **more).shape[1])
    except ValueError:
        return 0


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True


def detect_encoding(path: Path) -> str:
    """The first of UTF-16 (with its mark), UTF-8, Windows' and Latin-1 that fits the whole file."""
    with path.open("rb") as file:
        if file.read(2) in _MARKS and _is(path, "utf-16"):
            return "utf-16"
    return next(name for name in ("utf-8", "cp1252", "latin-1") if _is(path, name))


def _is(path: Path, encoding: str) -> bool:
    try:
        with path.open(encoding=encoding) as file:
            return all(True for _ in file)
    except UnicodeError:
        return False

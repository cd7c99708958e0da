"""Detection of a CSV file's separator, decimal mark and encoding."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import pandas as pd

from tidemill.errors import DataError
from tidemill.sources import csv

SEPARATORS = (",", ";", "\t", "|")
_BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SAMPLED_ROWS = 100_000  # what is inferred about a table is inferred from its first rows
_DECIMAL_COMMA = r"\s*[-+]?\d+,\d+\s*"


def read_table(path: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read the first rows of a CSV file; returns them and the options that `read_csv` needs.

    Raises:
        DataError: The file is not a table with a header, at least two columns and a row.
    """
    options = csv_options(path)
    more: dict[str, Any] = {"nrows": SAMPLED_ROWS, **options}
    frame = csv(path, **more).load()
    if frame.shape[1] < 2 or frame.empty:
        raise DataError(
            f"{path} has {frame.shape[1]} columns and {len(frame)} rows.",
            field="data",
            expected="a line of column names, then rows of at least two columns",
        )
    if all(_is_number(name) for name in frame.columns):
        raise DataError(
            f"The first line of {path} contains only numbers.",
            field="data",
            expected="a line of column names",
        )
    return frame, options


def csv_options(path: Path) -> dict[str, str]:
    """Infer the options of `pandas.read_csv` that differ from its defaults."""
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
    """How many columns the file has with this separator; 0 if it cannot be read."""
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
    """The first encoding that can decode the whole file.

    Tries UTF-16 (if the file has its byte order mark), UTF-8, Windows-1252 and Latin-1.
    """
    with path.open("rb") as file:
        if file.read(2) in _BYTE_ORDER_MARKS and _decodes(path, "utf-16"):
            return "utf-16"
    return next(name for name in ("utf-8", "cp1252", "latin-1") if _decodes(path, name))


def _decodes(path: Path, encoding: str) -> bool:
    try:
        with path.open(encoding=encoding) as file:
            return all(True for _ in file)
    except UnicodeError:
        return False

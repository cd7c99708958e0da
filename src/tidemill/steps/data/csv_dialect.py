"""Detection of how a CSV file is written: the options that `pandas.read_csv` needs for it.

Everything is inferred from the cells of up to 100,000 rows, and stated in the project file.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import pandas as pd

from tidemill.errors import DataError
from tidemill.sources import csv
from tidemill.steps.data.csv_cells import (
    is_number,
    missing_options,
    number_options,
    shows_no_header,
)

SEPARATORS = (",", ";", "\t", "|")
_BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SAMPLED_ROWS = 100_000  # what is inferred about a table is inferred from its first rows
BROKEN_SHARE = 0.001  # of a file's bytes: a UTF-8 file with fewer broken ones is a UTF-8 file
SAMPLED_BYTES = 1 << 20
NO_OPTIONS: Mapping[str, Any] = {}
_ASIAN = ["gb18030", "shift_jis", "euc_kr", "big5"]


def read_table(
    path: Path, given: Mapping[str, Any] = NO_OPTIONS
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read the first rows of a CSV file; returns them and the options that `read_csv` needs.

    Args:
        given: Options that are known; the others are inferred.

    Raises:
        DataError: The file is not a table with at least two columns and a row, or its first line
            looks like a row and `given` does not say what it is.
    """
    options = csv_options(path, given)
    more: dict[str, Any] = {"nrows": SAMPLED_ROWS, **options}
    frame = csv(path, **more).load()
    if frame.shape[1] < 2 or frame.empty:
        raise DataError(
            f"{path} has {frame.shape[1]} columns and {len(frame)} rows.",
            field="data",
            expected="a line of column names, then rows of at least two columns",
        )
    return frame, options


def csv_options(path: Path, given: Mapping[str, Any] = NO_OPTIONS) -> dict[str, Any]:
    """Infer the options of `pandas.read_csv` that differ from its defaults.

    Raises:
        DataError: The first line looks like a row, or there are more or fewer names than columns.
    """
    detected = {} if "encoding" in given else _encoding_options(path)
    options: dict[str, Any] = {**detected, **given}
    options |= {**_line_options(path, options), **given}
    cells = _all_texts(path, options)
    if "header" not in options and "names" not in options:
        _require_header(path, cells)
        cells = cells.iloc[1:]
    elif "names" not in options:
        options["names"] = [f"c{place + 1}" for place in range(cells.shape[1])]
    elif len(options["names"]) != cells.shape[1]:
        raise DataError(
            f"{path} has {cells.shape[1]} columns, and there are {len(options['names'])} names.",
            field="names",
        )
    columns = [cells[name] for name in cells.columns]
    options |= {**number_options(columns, options.get("sep", ",")), **given}
    options.pop("header", None)  # names imply it
    return {**options, **missing_options(columns, options)}


def describe_options(options: Mapping[str, Any]) -> list[str]:
    """What was inferred, in words."""
    words = {
        "encoding": "the encoding is {}",
        "encoding_errors": "broken bytes become a replacement character",
        "sep": "columns are separated by {!r}",
        "quotechar": "texts are quoted with {!r}",
        "skiprows": "the first {} lines are comments",
        "skipinitialspace": "spaces after a separator are not part of a cell",
        "names": "there is no line of column names",
        "decimal": "the decimal mark is {!r}",
        "thousands": "{!r} groups thousands",
        "na_values": "missing values are written {}",
        "keep_default_na": "other words, such as None or NA, are values",
    }
    shown = {**options, "na_values": ", ".join(map(repr, options.get("na_values", [])))}
    return [words[name].format(shown[name]) for name in options if name in words]


def _require_header(path: Path, cells: pd.DataFrame) -> None:
    if not shows_no_header(cells):
        return
    first = ", ".join(str(value) for value in cells.iloc[0, :4])
    raise DataError(
        f"{path} seems to have no line of column names: its first line, {first[:80]}, looks like "
        "a row.",
        field="data",
        expected="a line of column names, then rows",
        remedy="Name the columns with --names a,b,c, or use --no-header to call them c1, c2, ... "
        "If the first line does hold the names, rename those that are numbers.",
    )


def _all_texts(path: Path, options: Mapping[str, Any]) -> pd.DataFrame:
    """Every cell as text, with the first line as a row."""
    try:
        frame: pd.DataFrame = pd.read_csv(
            path,
            header=None,
            dtype=str,
            keep_default_na=False,
            index_col=False,
            nrows=SAMPLED_ROWS,
            **_without_names(options),
        )
    except ValueError:  # longer lines than the first: reading the table says which
        return pd.DataFrame([[""]])
    return frame.fillna("")


def _line_options(path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Comment lines, the separator and the quotes."""
    lines = _first_lines(path, options)
    comments = len(list(takewhile(lambda line: line.startswith("#"), lines)))
    found: dict[str, Any] = {"skiprows": comments} if comments else {}
    if "sep" not in options:
        known = {**options, **found}
        widths = {separator: _width(path, separator, known) for separator in SEPARATORS}
        separator = max(SEPARATORS, key=lambda each: widths[each])
        if separator != ",":
            found["sep"] = separator
    separator = options.get("sep", found.get("sep", ","))
    rows = [line.rstrip("\r\n").split(separator) for line in lines[comments + 1 :]]
    texts = [cell for row in rows for cell in row if cell and not is_number(cell)]
    later = [cell for row in rows for cell in row[1:] if cell]
    if _most(
        texts, lambda cell: len(cell.strip()) > 1 and cell.strip()[0] == cell.strip()[-1] == "'"
    ):
        found["quotechar"] = "'"
    if _most(later, lambda cell: cell.startswith(" ")):
        found["skipinitialspace"] = True
    return found


def _most(cells: Sequence[str], holds: Any) -> bool:
    return bool(cells) and sum(map(holds, cells)) > 0.9 * len(cells)


def _first_lines(path: Path, options: Mapping[str, Any]) -> list[str]:
    with path.open(encoding=options.get("encoding", "utf-8-sig"), errors="replace") as file:
        return file.readlines(SAMPLED_BYTES)


def _width(path: Path, separator: str, options: Mapping[str, Any]) -> int:
    """How many columns the file has with this separator; 0 if it cannot be read."""
    more = _without_names(options)
    try:
        return int(pd.read_csv(path, sep=separator, nrows=1000, **more).shape[1])
    except ValueError:
        return 0


def _without_names(options: Mapping[str, Any]) -> Any:
    return {name: value for name, value in options.items() if name not in ("names", "header")}


def _encoding_options(path: Path) -> dict[str, str]:
    encoding, broken = _detect(path)
    found = {} if encoding == "utf-8" else {"encoding": encoding}
    return found | ({"encoding_errors": "replace"} if broken else {})


def detect_encoding(path: Path) -> str:
    """The encoding of the whole file: UTF-16 with its byte order mark, UTF-8, or another one.

    A few broken bytes do not make a UTF-8 file another one. Otherwise Chinese, Japanese and Korean
    encodings are recognized by their texts, then Windows-1252 and Latin-1 are tried.
    """
    return _detect(path)[0]


def _detect(path: Path) -> tuple[str, bool]:
    """The encoding, and whether the file has bytes that are broken in it."""
    with path.open("rb") as file:
        if file.read(2) in _BYTE_ORDER_MARKS and _decodes(path, "utf-16"):
            return "utf-16", False
    if _decodes(path, "utf-8"):
        return "utf-8", False
    if _nearly_utf8(path):
        return "utf-8", True
    others = ("cp1252", "latin-1")
    return _asian(path) or next(name for name in others if _decodes(path, name)), False


def _nearly_utf8(path: Path) -> bool:
    """Whether the file has characters of several bytes, and few broken ones beside them."""
    broken = good = size = 0
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            escaped = sum("\udc80" <= character <= "\udcff" for character in line)
            broken, size = broken + escaped, size + len(line)
            good += sum(character > "\x7f" for character in line) - escaped
    return broken <= max(1.0, BROKEN_SHARE * size) and good > broken


def _asian(path: Path) -> str | None:
    from charset_normalizer import from_bytes

    with path.open("rb") as file:
        sample = file.read(SAMPLED_BYTES)
    best = from_bytes(sample, cp_isolation=[*_ASIAN, "cp1252"]).best()
    name = None if best is None else best.encoding
    return name if name in _ASIAN and _decodes(path, name) else None


def _decodes(path: Path, encoding: str) -> bool:
    try:
        with path.open(encoding=encoding) as file:
            return all(True for _ in file)
    except UnicodeError:
        return False

"""What the cells of a CSV file show: numbers and their marks, missing values, a missing header.

Columns are series of text, one cell each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from tidemill.serving.codec.values import MISSING

PANDAS_MISSING = MISSING - {""}
#: Those of them that may well be a category's or a class's name.
NAMES = frozenset({"None", "NA", "N/A", "n/a", "NULL", "null"})
#: Other words that mean a missing value in a column of numbers.
MISSING_NUMBERS = frozenset({"?", "-", "--", ".", "*", "na", "none", "missing", "unknown"})
MANY = 0.9  # of the cells of a column, to call it numeric

_SIGN = r"[-+]?"
_WHOLE = rf"{_SIGN}\d+(?:[eE][-+]?\d+)?"
_POINT = rf"{_SIGN}(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_COMMA = rf"{_SIGN}(?:\d+,\d+|,\d+)(?:[eE][-+]?\d+)?"
_POINT_GROUPS = rf"{_SIGN}\d{{1,3}}(?:\.\d{{3}})+(?:,\d+)?"
_COMMA_GROUPS = rf"{_SIGN}\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?"

Cells = pd.Series  # of str


def number_options(columns: Sequence[Cells[str]], separator: str) -> dict[str, str]:
    """The options `decimal` and `thousands`, if they differ from pandas' defaults.

    "1,234" alone can be either: it is 1.234 in a file that is not separated by commas.
    """
    comma = point = groups = point_groups = 0
    for column in columns:
        cells = column[~_missing(column)].str.strip()
        if cells.empty or not cells.str.contains(",").any():
            point += bool(len(cells)) and _share(cells, _POINT) > MANY and _any(cells, r".*\..*")
            continue
        european = _share(cells, f"{_WHOLE}|{_COMMA}|{_POINT_GROUPS}") > MANY
        american = _share(cells, f"{_POINT}|{_COMMA_GROUPS}") > MANY
        if european and (not american or separator != ","):
            comma += 1
            point_groups += _any(cells, rf"{_POINT_GROUPS}") and not _any(
                cells, _SIGN + r"\d+\.\d{1,2}"
            )
        elif american:
            groups += 1
    if comma > groups and comma >= point:
        return {"decimal": ",", "thousands": "."} if point_groups else {"decimal": ","}
    return {"thousands": ","} if groups else {}


def missing_options(columns: Sequence[Cells[str]], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options `na_values` and `keep_default_na`, if they differ from pandas' defaults.

    The words that stand for a missing number mean the same in all columns. Words such as "None" in
    a column of texts are values unless a column of numbers uses them, too.
    """
    number = _number_pattern(options)
    marks: set[str] = set()
    words: set[str] = set()
    for column in columns:
        present = column[column.str.strip() != ""]
        others = set(present[~present.str.strip().str.fullmatch(number)])
        numbers = len(present) - int(present.isin(others).sum())
        if numbers and all(_is_missing(text) for text in others) and numbers >= len(present) / 10:
            marks |= others | set(column[(column.str.strip() == "") & (column != "")])
        else:
            words |= others & PANDAS_MISSING
    if (words & NAMES) - marks:
        return {"keep_default_na": False, "na_values": ["", *sorted(marks | words - NAMES)]}
    unusual = sorted(marks - PANDAS_MISSING)
    return {"na_values": unusual} if unusual else {}


def shows_no_header(cells: pd.DataFrame) -> bool:
    """Whether the first row looks like the others rather than like names.

    It does if it has numbers wherever the others do, and if its texts are found among theirs.
    """
    first, rest = cells.iloc[0].str.strip(), cells.iloc[1:]
    if first.map(is_number).all():
        return True
    numeric = texts = known = 0
    for name in cells.columns:
        column = rest[name].str.strip()
        present = column[~_missing(column)]
        if present.empty or _is_missing(first[name]):
            continue
        if _share(present, f"{_POINT}|{_COMMA}") > MANY:
            numeric += 1
            if not is_number(first[name]):
                return False
        elif present.nunique() <= len(present) / 2:  # names and ids occur only once anyway
            texts += 1
            known += first[name] in set(present)
    return known >= max(texts, 1) * (0.5 if numeric else 0.8) if texts else numeric > 0


def _number_pattern(options: Mapping[str, Any]) -> str:
    if options.get("decimal") == ",":
        return (
            f"{_WHOLE}|{_COMMA}|{_POINT_GROUPS}" if "thousands" in options else f"{_WHOLE}|{_COMMA}"
        )
    return f"{_POINT}|{_COMMA_GROUPS}" if "thousands" in options else _POINT


def _missing(column: Cells[str]) -> Any:
    return column.map(_is_missing)


def _is_missing(text: str) -> bool:
    stripped = text.strip()
    return not stripped or stripped in PANDAS_MISSING or stripped.casefold() in MISSING_NUMBERS


def _share(cells: Cells[str], pattern: str) -> float:
    return float(cells.str.fullmatch(pattern).mean())


def _any(cells: Cells[str], pattern: str) -> bool:
    return bool(cells.str.fullmatch(pattern).any())


def is_number(text: str) -> bool:
    """Whether a cell is a number, with a decimal point or comma."""
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True

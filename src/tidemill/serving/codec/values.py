"""Converts one value, from JSON or from a CSV cell, to what a column takes."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from tidemill.errors import InputError
from tidemill.signature import Column, Kind, Value, check_value

INT64 = 1 << 63
#: Cells that mean a missing value, as in pandas.
MISSING = frozenset(
    {
        "", "NA", "N/A", "n/a", "<NA>", "#N/A", "#N/A N/A", "#NA", "NULL", "null", "None",
        "NaN", "nan", "-NaN", "-nan", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN",
    }
)  # fmt: skip
#: Cells that mean a missing value where numbers are expected.
MISSING_NUMBERS = frozenset({"", "?", "-", "--", "."})
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def coerce(column: Column, value: Value) -> Value:
    """The value as the arrays store it: float for numbers, int for integers, None if missing.

    Raises:
        InputError: The column does not take the value, or it exceeds 64 bits.
    """
    checked = check_value(column, value)
    if checked is None or isinstance(checked, bool | str):
        return checked
    if column.kind == "integer":
        whole = int(checked)
        if -INT64 <= whole < INT64:
            return whole
    else:
        with contextlib.suppress(OverflowError):
            return float(checked)
    raise InputError(
        f"'{column.name}' does not fit into 64 bits.",
        field=column.name,
        expected=column.describe(),
    )


def parse_cell(kind: Kind, text: str, categories: Collection[str] | None = None) -> Value:
    """The value of a CSV cell. What cannot be parsed stays text; `coerce` then refuses it.

    Args:
        categories: Of a text column: one of them may be called None, for example.
    """
    if text in MISSING:
        return text if categories is not None and text in categories else None
    if kind in ("number", "integer") and text.strip() in MISSING_NUMBERS:
        return None
    if kind in ("text", "datetime"):
        return text
    if kind == "boolean":
        return BOOLEANS.get(text.lower(), text)
    if "_" in text:
        return text  # Python parses 1_000 as a number, but in a table it is not one
    if kind == "integer":
        with contextlib.suppress(ValueError):
            return int(text)
    with contextlib.suppress(ValueError):
        return float(text)
    return text

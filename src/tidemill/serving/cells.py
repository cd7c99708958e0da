"""A cell of a CSV file as the value that a column takes."""

from __future__ import annotations

import contextlib

from tidemill.signature import Kind, Value

#: Texts that stand for a missing value, as pandas reads them.
MISSING = frozenset({"", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "<NA>", "n/a", "#N/A"})
TRUTHS = {"true": True, "1": True, "false": False, "0": False}


def read_cell(kind: Kind, text: str) -> Value:
    """The value that a cell stands for; what cannot be read stays text, and is refused by name."""
    if text in MISSING:
        return None
    if kind == "text":
        return text
    if kind == "boolean":
        return TRUTHS.get(text.lower(), text)
    if kind == "integer":
        with contextlib.suppress(ValueError):
            return int(text)
    with contextlib.suppress(ValueError):
        return float(text)
    return text

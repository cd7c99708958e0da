"""A cell of a CSV file as the value that a column takes."""

from __future__ import annotations

import contextlib

from tidemill.signature import Kind, Value

#: Texts that stand for a missing value, as pandas reads them.
MISSING = frozenset(
    {
        "",
        "NA",
        "N/A",
        "n/a",
        "<NA>",
        "#N/A",
        "#N/A N/A",
        "#NA",
        "NULL",
        "null",
        "None",
        "NaN",
        "nan",
    }
    | {"-NaN", "-nan", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"}
)
TRUTHS = {"true": True, "1": True, "false": False, "0": False}


def parse_cell(kind: Kind, text: str) -> Value:
    """The value that a cell stands for; what cannot be read stays text, and is refused by name."""
    if text in MISSING:
        return None
    if kind == "text":
        return text
    if kind == "boolean":
        return TRUTHS.get(text.lower(), text)
    if "_" in text:
        return text  # Python reads 1_000 as a number; no table means it so
    if kind == "integer":
        with contextlib.suppress(ValueError):
            return int(text)
    with contextlib.suppress(ValueError):
        return float(text)
    return text

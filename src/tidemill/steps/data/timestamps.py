"""Parsing of timestamps; ambiguous dates are an error, never a guess."""

from __future__ import annotations

import pandas as pd

from tidemill.errors import DataError

#: A day and a month before a year, either of them first: 3/4/2024, 03.04.24, 3-4-2024 10:00.
_BY_NUMBER = r"^\s*(\d{1,2})[/.\-](\d{1,2})[/.\-](?:\d{4}|\d{2})(?!\d)"
_EXPECTED = "numbers, or dates such as 2024-05-31 or 2024-05-31T12:00:00"


def parse_timestamps(texts: pd.Series[str], column: str) -> pd.Series[pd.Timestamp]:
    """Parse texts as timestamps in UTC [rows]; NaT if a text is not a timestamp.

    Whether dates such as 3/4/2024 have the day or the month first is decided once for all rows, by
    those in which one of the numbers is above 12.

    Args:
        column: The column's name, for error messages.

    Raises:
        DataError: No row shows which number is the day, or rows contradict each other.
    """
    numbers = texts.astype(str).str.extract(_BY_NUMBER).astype(float)
    day_first = bool((numbers[0] > 12).any())
    month_first = bool((numbers[1] > 12).any())
    if numbers[0].notna().any() and day_first == month_first:
        example = str(texts[numbers[0].notna()].iloc[0])
        why = (
            "some have the day first and others the month" if day_first else "either may be the day"
        )
        raise DataError(
            f"Times in '{column}' such as {example!r} are ambiguous: {why}.",
            field="time",
            expected=_EXPECTED,
            remedy="Convert them, or omit the column if the rows are already in order.",
        )
    return pd.to_datetime(texts, errors="coerce", utc=True, format="mixed", dayfirst=day_first)

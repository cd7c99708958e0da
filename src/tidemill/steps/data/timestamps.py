"""Texts as moments, so that rows can be put in order; never by guessing which number is the day."""

from __future__ import annotations

import pandas as pd

from tidemill.errors import DataError

#: A day and a month before a year, either of them first: 3/4/2024, 03.04.24, 3-4-2024 10:00.
_BY_NUMBER = r"^\s*(\d{1,2})[/.\-](\d{1,2})[/.\-](?:\d{4}|\d{2})(?!\d)"
_EXPECTED = "numbers, or dates such as 2024-05-31 or 2024-05-31T12:00:00"


def parse_timestamps(texts: pd.Series[str], column: str) -> pd.Series[pd.Timestamp]:
    """The moments in UTC [rows]; NaT where a text is none.

    Dates such as 3/4/2024 are read day first or month first as one for all rows: as those say where
    one of the numbers is above twelve.

    Args:
        column: Its name, for errors.

    Raises:
        DataError: Nothing says which number is the day, or rows disagree.
    """
    numbers = texts.astype(str).str.extract(_BY_NUMBER).astype(float)
    day_first = bool((numbers[0] > 12).any())
    month_first = bool((numbers[1] > 12).any())
    if numbers[0].notna().any() and day_first == month_first:
        example = str(texts[numbers[0].notna()].iloc[0])
        why = (
            "some put the day first and others the month" if day_first else "either may be the day"
        )
        raise DataError(
            f"Times of '{column}' such as {example!r} can be read in two ways: {why}.",
            field="time",
            expected=_EXPECTED,
            remedy="Write them so, or name no column where the rows are in order already.",
        )
    return pd.to_datetime(texts, errors="coerce", utc=True, format="mixed", dayfirst=day_first)

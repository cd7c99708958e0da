"""Recognition of columns that hold dates or times, and of their formats."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from tidemill.datetimes import EPOCHS, ISO, ZONED, DateError, to_seconds
from tidemill.steps.data.date_columns import typed_format

_DAYS = (
    "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y",
    "%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%m-%y", "%m-%d-%y", "%Y%m%d", "%d-%b-%Y", "%d %b %Y",
    "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%d-%b-%y", "%Y-%m", "%m/%Y", "%b %Y",
    "%B %Y", "%b-%Y",
)  # fmt: skip
_CLOCKS = (
    "", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p", ", %H:%M",
    ", %H:%M:%S", "T%H:%M:%S",
)  # fmt: skip
FORMATS = (ISO, ZONED, *(day + clock for day, clock in product(_DAYS, _CLOCKS)))
#: A short year needs two digits everywhere: 1.2.13 is rather a version.
_SHORT = re.compile(r"\d\d[./-](\d\d|[A-Za-z]{3})[./-]\d\d(?!\d).*", re.ASCII)
_HINTS = {"date", "datetime", "time", "timestamp", "epoch", "created", "updated", "modified", "at"}
_HINT_ENDS = ("date", "timestamp", "datetime", "_ts")
#: Seconds since 1970 of the years in which a number may be meant as a time: 1990 to 2099.
_SINCE, _UNTIL = 631_152_000, 4_102_444_800
_SAMPLE, _MANY = 20, 10


def date_formats(series: pd.Series[Any]) -> tuple[str, ...]:
    """The formats that fit all values of a column and differ in what they say; () for no dates.

    Numbers are dates only with evidence beside their size: the column's name, or that all of at
    least ten different ones are days of a calendar (20240531).
    """
    if typed := typed_format(series):
        return (typed,)
    numeric = types.is_numeric_dtype(series.dtype) and not types.is_bool_dtype(series.dtype)
    if not numeric and types.infer_dtype(series, skipna=True) != "string":
        return ()
    present = pd.Series(series.dropna().unique())
    if len(present) < 2:
        return ()
    if numeric:
        return _of_numbers(str(series.name), present)
    return tuple(_differing([str(value) for value in present]))


def _of_numbers(name: str, present: pd.Series[Any]) -> tuple[str, ...]:
    values = present.to_numpy(np.float64)
    if not np.isfinite(values).all() or (values % 1 != 0).any():
        return ()
    hinted = _is_hint(name)
    if values.min() >= 19_000_101 and values.max() <= 21_001_231:
        known = (hinted or len(values) >= _MANY) and _fit(values.tolist(), "%Y%m%d") is not None
        return ("%Y%m%d",) if known else ()
    units = [
        form
        for form, unit in EPOCHS.items()
        if values.min() >= _SINCE * unit and values.max() < _UNTIL * unit
    ]
    return tuple(units) if hinted else ()


def _is_hint(name: str) -> bool:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return bool(_HINTS & set(re.findall("[a-z]+", words))) or words.endswith(_HINT_ENDS)


def _differing(texts: Sequence[str]) -> Iterator[str]:
    """The fitting formats, without those that say the same as an earlier one."""
    seen: list[list[float]] = []
    for form in FORMATS:
        if _fit(texts[:_SAMPLE], form) is None or (found := _fit(texts, form)) is None:
            continue
        if found not in seen:
            seen.append(found)
            yield form


def _fit(values: Sequence[Any], form: str) -> list[float] | None:
    """The values in seconds; None if one is not of this format."""
    if "%y" in form and not all(_SHORT.fullmatch(str(value).strip()) for value in values):
        return None
    try:
        return [to_seconds(value, form) for value in values]
    except DateError:
        return None

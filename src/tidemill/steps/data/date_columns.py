"""Columns of dates and times: whole seconds since 1970 as float64, NaN where missing.

Texts and numbers are converted by the server's own `tidemill.datetimes`. See decision 215.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api import types

from tidemill.datetimes import (
    ISO,
    MAX_SECONDS,
    MIN_SECONDS,
    ZONED,
    DateError,
    has_zone,
    in_words,
    to_seconds,
)
from tidemill.errors import DataError

DAY = 86_400


def typed_formats(frame: pd.DataFrame) -> dict[str, str]:
    """The formats of the columns whose type says that they hold dates: datetimes and periods."""
    found = {str(name): typed_format(frame[name]) for name in frame.columns}
    return {name: form for name, form in found.items() if form is not None}


def typed_format(series: pd.Series[Any]) -> str | None:
    """The format of one column by its type; None if that is no date's."""
    dtype = series.dtype
    if isinstance(dtype, pd.DatetimeTZDtype):
        return ZONED
    if types.is_datetime64_dtype(dtype) or isinstance(dtype, pd.PeriodDtype):
        return ISO
    if not types.is_object_dtype(dtype):
        return None
    if types.infer_dtype(series, skipna=True) not in ("date", "datetime", "datetime64"):
        return None
    zoned = [getattr(value, "tzinfo", None) is not None for value in series.dropna()]
    return ZONED if all(zoned) else ISO


def in_seconds(frame: pd.DataFrame, formats: Mapping[str, str]) -> pd.DataFrame:
    """The frame with its date columns converted.

    Raises:
        DataError: A value is not a date of its column's format; names the column and the value.
    """
    changed = {name: as_seconds(frame[name], form) for name, form in formats.items()}
    return frame.assign(**changed)


def as_seconds(series: pd.Series[Any], form: str) -> pd.Series[Any]:
    """One column in seconds; raises as `in_seconds` does."""
    dtype = series.dtype
    if isinstance(dtype, pd.PeriodDtype):
        series = series.dt.to_timestamp()
    if types.is_datetime64_any_dtype(series.dtype):
        return _from_timestamps(series, form)
    try:
        codes, distinct = pd.factorize(series)
    except TypeError as error:
        raise _unlike(series, "contains lists or objects", form) from error
    seconds = np.array([*(_convert(value, series, form) for value in distinct), np.nan])
    return pd.Series(seconds[codes], index=series.index, name=series.name)


def _from_timestamps(series: pd.Series[Any], form: str) -> pd.Series[Any]:
    zoned = isinstance(series.dtype, pd.DatetimeTZDtype)
    if zoned != has_zone(form):
        having = "have a zone" if zoned else "have no zone"
        raise _unlike(series, f"contains {series.dtype}, whose times {having}", form)
    plain = series.dt.tz_convert("UTC").dt.tz_localize(None) if zoned else series
    ticks = plain.to_numpy().astype("datetime64[s]").astype(np.int64)  # rounds down
    seconds = np.where(plain.isna(), np.nan, ticks.astype(np.float64))
    if not _inside(seconds[~np.isnan(seconds)]):
        raise _unlike(series, "contains times outside the years 1 to 9999", form)
    return pd.Series(seconds, index=series.index, name=series.name)


def _inside(seconds: npt.NDArray[np.float64]) -> bool:
    return bool(((seconds >= MIN_SECONDS) & (seconds <= MAX_SECONDS)).all())


def _convert(value: Any, series: pd.Series[Any], form: str) -> float:
    plain = value.item() if isinstance(value, np.generic) else value
    try:
        return to_seconds(plain, form)
    except (DateError, AttributeError, TypeError) as error:
        count = int((series == value).sum())
        what = str(error) if isinstance(error, DateError) else "is not a date"
        raise _unlike(series, f"contains {str(plain)!r} in {count} rows, which {what}", form) from (
            error
        )


def _unlike(series: pd.Series[Any], what: str, form: str) -> DataError:
    return DataError(
        f"Column '{series.name}' {what}.",
        field=str(series.name),
        expected=in_words(form),
        remedy=f"The project states dates={{'{series.name}': {form!r}}}; state the format of the "
        "values, or clean the column.",
    )


def has_clock(seconds: pd.Series[Any]) -> bool:
    """Whether a column has times of day, and not only dates."""
    known = seconds.dropna()
    return bool((known % DAY != 0).any())

"""The four kinds of column that a model can take, and the conversion of pandas' types to them.

number = float64, integer = int64, boolean = bool, text = pandas' text (NaN if missing). Integers
and booleans with missing values become float64 with NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from tidemill.errors import DataError
from tidemill.signature import Kind

_DATES = "Convert it to numbers in the data function (year, weekday, days since), or drop it."
_MIXED = "Convert it to one type in the data function, or read it with dtype=str."
_WORDS = {"integer": "numbers", "floating": "numbers", "string": "texts", "boolean": "booleans"}


def infer_kind(series: pd.Series[Any]) -> Kind:
    """The kind of a column's values, also if missing values will convert it to float64."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(series.cat.categories.dtype)
    found = types.infer_dtype(series, skipna=True)
    kinds: dict[str, Kind] = {"boolean": "boolean", "integer": "integer", "string": "text"}
    return kinds.get(found, "number")


def as_kind(series: pd.Series[Any]) -> pd.Series[Any]:
    """Convert a column to one of the four kinds, keeping its index.

    Raises:
        DataError: The column contains dates, bytes, complex numbers, lists, or mixed types.
    """
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(series.cat.categories.dtype)
    dtype = series.dtype
    if types.is_bool_dtype(dtype):
        return _as_boolean(series)
    if types.is_integer_dtype(dtype):
        return _as_integer(series)
    if types.is_float_dtype(dtype):
        return series.astype("float64")
    if types.is_object_dtype(dtype) or types.is_string_dtype(dtype):
        return _from_objects(series)
    raise _unsupported(series, f"contains {dtype}")


def _as_boolean(series: pd.Series[Any]) -> pd.Series[Any]:
    return series.astype("float64" if series.isna().any() else "bool")


def _as_integer(series: pd.Series[Any]) -> pd.Series[Any]:
    fits = not types.is_unsigned_integer_dtype(series.dtype) or not (series > 2**63 - 1).any()
    return series.astype("int64" if fits and not series.isna().any() else "float64")


def _as_integer_if_it_fits(series: pd.Series[Any]) -> pd.Series[Any]:
    try:
        return series.astype("int64")
    except OverflowError:
        return series.astype("float64")


def _from_objects(series: pd.Series[Any]) -> pd.Series[Any]:
    found = types.infer_dtype(series, skipna=True)
    if found == "empty":
        return pd.Series(np.nan, index=series.index, name=series.name, dtype="float64")
    if found == "string":
        return _as_text(series)
    if found == "boolean":
        return _as_boolean(series.astype("boolean"))
    if found == "integer" and series.notna().all():
        return _as_integer_if_it_fits(series)
    if found in ("integer", "floating", "mixed-integer-float", "decimal"):
        return series.astype("float64")
    raise _unsupported(
        series, _mixture(series) if found.startswith("mixed") else f"contains {found}"
    )


def _as_text(series: pd.Series[Any]) -> pd.Series[Any]:
    """Texts with NaN for missing values, which pandas may mark as None, NA or NaN."""
    if isinstance(series.dtype, pd.StringDtype) and series.dtype.na_value is np.nan:
        return series
    return series.astype(object).where(series.notna(), np.nan)


def _mixture(series: pd.Series[Any]) -> str:
    def word(value: Any) -> str:
        return _WORDS.get(types.infer_dtype([value]), f"{type(value).__name__} values")

    counts = series.dropna().map(word).value_counts()
    if len(counts) == 1:
        return f"contains {counts.index[0]}"
    return "mixes " + " and ".join(f"{kind} ({count})" for kind, count in counts.items())


def _unsupported(series: pd.Series[Any], what: str) -> DataError:
    dates = "date" in what or "time" in what or "period" in what
    return DataError(
        f"Column '{series.name}' {what}.",
        field=str(series.name),
        expected="numbers, booleans or texts",
        remedy=_DATES if dates else _MIXED,
    )

"""Inference of a model's signature from its training rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api import types

from tidemill.errors import DataError
from tidemill.signature import Column, Kind, Label, Signature, Tensor, Value

if TYPE_CHECKING:
    from tidemill.project import Project, Task

MAX_CATEGORIES = 1000
NO_DATES: Mapping[str, str] = MappingProxyType({})


def infer_signature(
    X: pd.DataFrame | npt.NDArray[Any],
    y: npt.NDArray[Any] | pd.Series[Any],
    task: Task,
    project: Project,
    kinds: Mapping[str, Kind] | None = None,
    dates: Mapping[str, str] = NO_DATES,
) -> Signature:
    """Infer the signature of a model from its training rows.

    Args:
        X: The rows that the model is fitted on: a DataFrame, or an array [rows, *shape] for a
            tensor. A column is nullable if it has missing values here.
        y: The targets [rows]; every label must occur.
        kinds: Kinds of columns that their type does not show, such as booleans with missing values
            stored as float64.
        dates: The formats of the columns that are dates or times, in seconds.

    Raises:
        DataError: A column is of a type that a model cannot take.
    """
    labels = distinct_labels(y) if task == "classification" else ()
    if project.tensor is not None or not isinstance(X, pd.DataFrame):
        tensor = project.tensor or Tensor(name="input", shape=tuple(np.shape(X)[1:]))
        return Signature(task=task, target=project.target, tensor=tensor, labels=labels)
    accept = project.unknown_categories == "accept"
    columns = tuple(
        _datetime(X[name], dates[str(name)])
        if str(name) in dates
        else _column(X[name], accept, (kinds or {}).get(str(name)))
        for name in X.columns
    )
    return Signature(task=task, target=project.target, columns=columns, labels=labels)


def distinct_labels(y: Iterable[Any]) -> tuple[Label, ...]:
    """The distinct labels as Python scalars, in scikit-learn's order of `classes_`."""
    return tuple(cast("Label", label) for label in np.unique(np.asarray(y)).tolist())


def conform(frame: pd.DataFrame, signature: Signature) -> pd.DataFrame:
    """Select the signature's columns in order, each converted to the type of its kind.

    number = float64, integer = int64, boolean = bool, text = object with NaN if missing. Integers
    and booleans with missing values become float64.
    """
    series = {c.name: _series(_plain(frame[c.name]), c) for c in signature.columns}
    return pd.DataFrame(series).set_axis(frame.index)


def _datetime(values: pd.Series[Any], form: str) -> Column:
    return Column(str(values.name), "datetime", bool(values.isna().any()), format=form)


def _column(values: pd.Series[Any], accept: bool, kind: Kind | None) -> Column:
    kind = kind or _kind(values)
    known = values.dropna()
    categories = None
    if kind == "text" and not accept and known.nunique() <= MAX_CATEGORIES:
        categories = tuple(sorted({str(text) for text in known}))
    return Column(str(values.name), kind, bool(values.isna().any()), categories or None)


def _kind(values: pd.Series[Any]) -> Kind:
    dtype = values.dtype
    if types.is_bool_dtype(dtype):
        return "boolean"
    if types.is_integer_dtype(dtype):
        return "integer"
    if types.is_float_dtype(dtype):
        return "number"
    found = types.infer_dtype(values, skipna=True)
    if found == "boolean":
        return "boolean"
    if found in ("string", "empty") or isinstance(dtype, pd.CategoricalDtype):
        return "text"
    raise DataError(
        f"Column '{values.name}' contains {found} ({dtype}).",
        field=str(values.name),
        expected="numbers, booleans or texts",
    )


def _plain(values: pd.Series[Any]) -> list[Value]:
    return [
        None if missing else value for value, missing in zip(values, values.isna(), strict=True)
    ]


def _series(values: Sequence[Value], column: Column) -> pd.Series[Any]:
    if column.kind == "text":
        texts: list[Any] = [np.nan if value is None else value for value in values]
        return pd.Series(texts, dtype=object)
    missing = any(value is None for value in values)
    dtypes = {"number": "float64", "integer": "int64", "boolean": "bool", "datetime": "float64"}
    numbers: list[Any] = [np.nan if value is None else value for value in values]
    return pd.Series(numbers, dtype="float64" if missing else dtypes[column.kind])

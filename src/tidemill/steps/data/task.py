"""Whether a target holds classes or quantities, and whether it can."""

from __future__ import annotations

from typing import Any

import pandas as pd
from pandas.api import types

from tidemill.errors import DataError
from tidemill.project import Project, Task

MANY_CLASSES = 20


def resolve_task(target: pd.Series[Any], project: Project) -> Task:
    """The project's task, or a guess."""
    return project.task or infer_task(target)


def infer_task(target: pd.Series[Any]) -> Task:
    """Text, booleans and few whole numbers are classes, other numbers are quantities.

    Whole numbers are few when there are at most 20 of them and ten rows or more for each.
    """
    if not is_numeric(target):
        return "classification"
    distinct = target.nunique()
    few = distinct <= MANY_CLASSES and (distinct <= 2 or distinct * 10 <= len(target))
    return "classification" if few and _all_whole(target) else "regression"


def convert_target(target: pd.Series[Any], project: Project) -> pd.Series[Any]:
    """The target as its task needs it: classes whole or text, quantities float64.

    Raises:
        DataError: Classes with fractions, or quantities that are not numbers.
    """
    if resolve_task(target, project) == "regression":
        return _as_quantity(target)
    if types.is_float_dtype(target.dtype):
        return _as_class(target)
    return target


def is_numeric(series: pd.Series[Any]) -> bool:
    """Whether the column holds numbers (booleans are none)."""
    return types.is_numeric_dtype(series.dtype) and not types.is_bool_dtype(series.dtype)


def _as_quantity(target: pd.Series[Any]) -> pd.Series[Any]:
    if not is_numeric(target):
        raise DataError(
            f"The target '{target.name}' holds {_shown(target)}, which regression cannot predict.",
            field=str(target.name),
            expected="numbers",
            remedy='Set task="classification", or leave the task out.',
        )
    return target.astype("float64")


def _as_class(target: pd.Series[Any]) -> pd.Series[Any]:
    if not _all_whole(target):
        raise DataError(
            f"The target '{target.name}' holds fractions ({_shown(target)}), which are no classes.",
            field=str(target.name),
            expected="texts, booleans or whole numbers",
            remedy='Set task="regression", or make texts of them in the data function.',
        )
    return target.astype("int64")


def _all_whole(target: pd.Series[Any]) -> bool:
    return bool((target == target.round()).all())


def _shown(target: pd.Series[Any]) -> str:
    values = target.unique()[:3].tolist()
    return ", ".join(repr(value) for value in values)

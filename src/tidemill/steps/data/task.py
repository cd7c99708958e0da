"""Classification or regression: inferring the task from a target, and converting the target."""

from __future__ import annotations

from typing import Any

import pandas as pd
from pandas.api import types

from tidemill.errors import DataError
from tidemill.project import Project, Task

MANY_CLASSES = 20


def resolve_task(target: pd.Series[Any], project: Project) -> Task:
    """The project's task, or the one inferred from the target."""
    return project.task or infer_task(target)


def infer_task(target: pd.Series[Any]) -> Task:
    """Infer the task: text, booleans and few distinct integers are classes, other numbers are not.

    Integers are few if there are at most two, or at most 20 with on average ten rows each.
    """
    if not is_numeric(target):
        return "classification"
    distinct = target.nunique()
    few = distinct <= MANY_CLASSES and (distinct <= 2 or distinct * 10 <= len(target))
    return "classification" if few and _all_whole(target) else "regression"


def convert_target(target: pd.Series[Any], project: Project) -> pd.Series[Any]:
    """Convert the target for its task: float64 for regression, integers or texts for classes.

    Raises:
        DataError: Classes are fractional numbers, or quantities are not numbers.
    """
    if resolve_task(target, project) == "regression":
        return _as_quantity(target)
    if types.is_float_dtype(target.dtype):
        return _as_class(target)
    return target


def is_numeric(series: pd.Series[Any]) -> bool:
    """Whether the column contains numbers; booleans do not count."""
    return types.is_numeric_dtype(series.dtype) and not types.is_bool_dtype(series.dtype)


def _as_quantity(target: pd.Series[Any]) -> pd.Series[Any]:
    if not is_numeric(target):
        raise DataError(
            f"The target '{target.name}' contains {_shown(target)}; regression needs numbers.",
            field=str(target.name),
            expected="numbers",
            remedy='Set task="classification", or omit the task.',
        )
    return target.astype("float64")


def _as_class(target: pd.Series[Any]) -> pd.Series[Any]:
    if not _all_whole(target):
        raise DataError(
            f"The target '{target.name}' contains fractions ({_shown(target)}), not classes.",
            field=str(target.name),
            expected="texts, booleans or whole numbers",
            remedy='Set task="regression", or convert them to text in the data function.',
        )
    return target.astype("int64")


def _all_whole(target: pd.Series[Any]) -> bool:
    return bool((target == target.round()).all())


def _shown(target: pd.Series[Any]) -> str:
    values = target.unique()[:3].tolist()
    return ", ".join(repr(value) for value in values)

"""Preprocessing as part of the model: a scikit-learn Pipeline built from the columns' types.

    number, integer   missing values become the median; then StandardScaler
    boolean           0.0 or 1.0; missing values become the more frequent one
    datetime          whole seconds; missing values become the median, and a column says which were
                      missing; then the year, the month, the weekday, the time of day if any row
                      has one, and the sine and cosine of the last three, scaled like numbers
    text              missing values become the text "missing"; then one-hot, at most 256 columns
    tensor            unchanged

Only scikit-learn, pandas and the standard library are used, so that a logged model can be loaded
without Tidemill. See decision 024.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from operator import methodcaller
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pandas.api import types
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    OneHotEncoder,
    StandardScaler,
)

from tidemill.steps.data.date_columns import has_clock

if TYPE_CHECKING:
    from tidemill.project import Project

MISSING_TEXT = "missing"
MAX_CATEGORIES = 256
DAY, HOUR = 86_400.0, 3600.0
#: A calendar feature of whole seconds since 1970 (Thursday), as methods of a NumPy array, and its
#: period if it has one.
CALENDAR: dict[str, tuple[tuple[tuple[Any, ...], ...], float | None]] = {
    "year": (
        (("astype", "datetime64[s]"), ("astype", "datetime64[Y]"), ("astype", "float64")), None,
    ),
    "month": (
        (
            ("astype", "datetime64[s]"), ("astype", "datetime64[M]"), ("astype", "float64"),
            ("__mod__", 12.0),
        ),
        12.0,
    ),
    "weekday": ((("__floordiv__", DAY), ("__add__", 3.0), ("__mod__", 7.0)), 7.0),
    "hour": ((("__mod__", DAY), ("__truediv__", HOUR)), 24.0),
}  # fmt: skip


def build_pipeline(
    estimator: Any, X: Any, project: Project, *, dates: Collection[str] = ()
) -> Pipeline:
    """Build an unfitted Pipeline of two steps, "preprocess" and "model".

    Args:
        estimator: Unfitted; becomes the step "model" without being cloned.
        X: The training rows: a DataFrame, whose types determine the preprocessing, or an array
            [rows, *shape] for a tensor, which is not preprocessed.
        project: Its `preprocess` replaces the default: "none" passes columns on unchanged, a
            transformer is cloned.
        dates: The columns that are dates or times, in seconds.
    """
    step = _preprocess(X, project.preprocess, dates)
    return Pipeline([("preprocess", step), ("model", estimator)])


def find_scaler(pipeline: Any) -> StandardScaler | None:
    """The fitted StandardScaler in a pipeline; None if it has none."""
    return next((s for s in _steps(pipeline) if isinstance(s, StandardScaler)), None)


def preprocessor(X: pd.DataFrame, dates: Collection[str] = ()) -> ColumnTransformer:
    """Build the unfitted transformer of a DataFrame's columns to one float64 matrix."""
    parts = {
        "number": _numbers, "boolean": _booleans, "date": _dates, "time": _times,
        "missing": _missing, "text": _texts,
    }  # fmt: skip
    groups: dict[str, list[str]] = {name: [] for name in parts}
    for name in X.columns:
        if name not in dates:
            groups[_group(X[name])].append(name)
            continue
        groups["time" if has_clock(X[name]) else "date"].append(name)
        if X[name].isna().any():
            groups["missing"].append(name)
    chosen = [(group, parts[group](), columns) for group, columns in groups.items() if columns]
    # Dense, because histogram boosting and naive Bayes do not accept sparse matrices.
    return ColumnTransformer(chosen, sparse_threshold=0.0)


def _preprocess(X: Any, setting: Any, dates: Collection[str]) -> Any:
    if setting is None and isinstance(X, pd.DataFrame):
        return preprocessor(X, dates)
    if setting is None or isinstance(setting, str):
        return "passthrough"
    return clone(setting)


def _group(column: pd.Series[Any]) -> str:
    if types.is_bool_dtype(column.dtype):
        return "boolean"
    return "number" if types.is_numeric_dtype(column.dtype) else "text"


def _numbers() -> Pipeline:
    # The median is robust to outliers. Columns without any value are kept, so that the width of the
    # matrix depends on the columns alone.
    fill = SimpleImputer(strategy="median", keep_empty_features=True)
    return Pipeline([("impute", fill), ("scale", StandardScaler())])


def _booleans() -> Pipeline:
    # The imputer does not accept booleans. Dividing by the largest absolute value, 1, converts them
    # to 0.0 and 1.0 and keeps missing values.
    fill = SimpleImputer(strategy="most_frequent", keep_empty_features=True)
    return Pipeline([("number", MaxAbsScaler()), ("impute", fill)])


def _dates() -> Pipeline:
    return _calendar("year", "month", "weekday")


def _times() -> Pipeline:
    return _calendar("year", "month", "weekday", "hour")


def _calendar(*features: str) -> Pipeline:
    """Elapsed seconds and calendar features. The sine and cosine let a linear model see that
    December is next to January; see decision 215."""
    fill = SimpleImputer(strategy="median", keep_empty_features=True)
    parts: list[tuple[str, Any]] = [("elapsed", "passthrough")]
    for name in features:
        methods, period = CALENDAR[name]
        parts.append((name, Pipeline(_called(*methods))))
        if period is not None:
            angle = _called(*methods, ("__mul__", 2 * math.pi / period))
            # Rounded, because libraries differ in the last digit, which would decide at the
            # threshold of a tree between two months with the same sine.
            rounded = ("round", _function(methodcaller("round", 6)))
            for wave in (np.sin, np.cos):
                steps = [*angle, (wave.__name__, _function(wave)), rounded]
                parts.append((f"{name}_{wave.__name__}", Pipeline(steps)))
    whole = _function(np.floor)  # the median may lie between two seconds
    return Pipeline(
        [("impute", fill), ("whole", whole), ("parts", FeatureUnion(parts)),
         ("scale", StandardScaler())]
    )  # fmt: skip


def _missing() -> FunctionTransformer:
    return _function(np.isnan)


def _called(*methods: tuple[Any, ...]) -> list[tuple[str, FunctionTransformer]]:
    """A step for each call of a method."""
    steps = [_function(methodcaller(*method)) for method in methods]
    return [(f"step{i}", step) for i, step in enumerate(steps)]


def _function(function: Any) -> FunctionTransformer:
    return FunctionTransformer(function, feature_names_out="one-to-one")


def _texts() -> Pipeline:
    # scikit-learn's imputer recognizes NaN but neither None nor pandas.NA; pandas recognizes all
    # three. As objects first, because a categorical or an all-NaN column accepts no new text.
    objects = _function(methodcaller("astype", "object"))
    fill = _function(methodcaller("fillna", MISSING_TEXT))
    onehot = OneHotEncoder(
        handle_unknown="infrequent_if_exist", max_categories=MAX_CATEGORIES, sparse_output=False
    )
    return Pipeline([("object", objects), ("impute", fill), ("onehot", onehot)])


def _steps(part: Any) -> Iterator[Any]:
    """Every transformer in a pipeline, in order, at any depth."""
    if isinstance(part, Pipeline):
        for _, step in part.steps:
            yield from _steps(step)
    elif isinstance(part, ColumnTransformer):
        fitted = getattr(part, "transformers_", part.transformers)
        for _, step, _ in fitted:
            yield from _steps(step)
    elif not isinstance(part, str):
        yield part

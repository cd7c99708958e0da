"""Preprocessing as part of the model: a scikit-learn Pipeline built from the columns' types.

    number, integer   missing values become the median; then StandardScaler
    boolean           0.0 or 1.0; missing values become the more frequent one
    text              missing values become the text "missing"; then one-hot, at most 256 columns
    tensor            unchanged

Only scikit-learn, pandas and the standard library are used, so that a logged model can be loaded
without Tidemill. See decision 024.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import methodcaller
from typing import TYPE_CHECKING, Any

import pandas as pd
from pandas.api import types
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    OneHotEncoder,
    StandardScaler,
)

if TYPE_CHECKING:
    from tidemill.project import Project

MISSING_TEXT = "missing"
MAX_CATEGORIES = 256


def build_pipeline(estimator: Any, X: Any, project: Project) -> Pipeline:
    """Build an unfitted Pipeline of two steps, "preprocess" and "model".

    Args:
        estimator: Unfitted; becomes the step "model" without being cloned.
        X: The training rows: a DataFrame, whose types determine the preprocessing, or an array
            [rows, *shape] for a tensor, which is not preprocessed.
        project: Its `preprocess` replaces the default: "none" passes columns on unchanged, a
            transformer is cloned.
    """
    return Pipeline([("preprocess", _preprocess(X, project.preprocess)), ("model", estimator)])


def find_scaler(pipeline: Any) -> StandardScaler | None:
    """The fitted StandardScaler in a pipeline; None if it has none."""
    return next((s for s in _steps(pipeline) if isinstance(s, StandardScaler)), None)


def preprocessor(X: pd.DataFrame) -> ColumnTransformer:
    """Build the unfitted transformer of a DataFrame's columns to one float64 matrix."""
    groups: dict[str, list[str]] = {"number": [], "boolean": [], "text": []}
    for name in X.columns:
        groups[_group(X[name])].append(name)
    parts = {"number": _numbers, "boolean": _booleans, "text": _texts}
    chosen = [(group, parts[group](), columns) for group, columns in groups.items() if columns]
    # Dense, because histogram boosting and naive Bayes do not accept sparse matrices.
    return ColumnTransformer(chosen, sparse_threshold=0.0)


def _preprocess(X: Any, setting: Any) -> Any:
    if setting is None and isinstance(X, pd.DataFrame):
        return preprocessor(X)
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


def _texts() -> Pipeline:
    # scikit-learn's imputer recognizes NaN but neither None nor pandas.NA; pandas recognizes all
    # three. As objects first, because a categorical or an all-NaN column accepts no new text.
    objects = FunctionTransformer(methodcaller("astype", "object"), feature_names_out="one-to-one")
    fill = FunctionTransformer(methodcaller("fillna", MISSING_TEXT), feature_names_out="one-to-one")
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

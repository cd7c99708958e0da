"""Conversion of a fitted model for the native fallback: a copy that takes arrays.

Serving has no pandas, so columns are selected by position instead of by name, and methods of pandas
are replaced by scikit-learn's imputers. This changes fitted attributes that are internal to
scikit-learn, so the copy is compared with the original before it is used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from operator import methodcaller
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from tidemill.errors import ExportError
from tidemill.signature import Signature
from tidemill.steps.convert.columns import positions


def to_array_input(model: Any, signature: Signature) -> Any:
    """Copy a fitted model, so that the copy takes arrays with the signature's columns.

    Raises:
        ExportError: A step needs a DataFrame and cannot be replaced.
    """
    names = list(signature.names)
    converted = copy.deepcopy(model)
    _for_each_estimator(converted, lambda step: _convert_step(step, names), set())
    return _without_pandas(converted, len(names))


def _for_each_estimator(value: Any, act: Callable[[Any], None], visited: set[int]) -> None:
    """Call `act` with every estimator within a value, inner ones first."""
    if id(value) in visited:
        return
    visited.add(id(value))
    if isinstance(value, BaseEstimator):
        for inner in list(vars(value).values()):
            _for_each_estimator(inner, act, visited)
        act(value)
    elif isinstance(value, dict):
        for inner in list(value.values()):
            _for_each_estimator(inner, act, visited)
    elif isinstance(value, list | tuple) or _holds_objects(value):
        for inner in value:
            _for_each_estimator(inner, act, visited)


def _holds_objects(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == object and value.ndim > 0


def _convert_step(step: Any, names: list[str]) -> None:
    if isinstance(step, ColumnTransformer):
        _by_position(step, names)
    if "n_jobs" in vars(step):
        step.n_jobs = None  # serving runs requests in parallel instead
    vars(step).pop("feature_names_in_", None)


def _by_position(step: ColumnTransformer, names: list[str]) -> None:
    known = list(getattr(step, "feature_names_in_", names))
    placed = [
        (name, inner, _positions(columns, known, step.n_features_in_))
        for name, inner, columns in step.transformers_
    ]
    step.transformers_ = [
        (name, _without_pandas(inner, np.size(index)), index) for name, inner, index in placed
    ]
    kept = [part for part in step.transformers_ if part[0] != "remainder"]
    step.transformers = [(name, "passthrough", columns) for name, _, columns in kept]
    step._columns = [columns for _, _, columns in kept]


def _positions(columns: Any, known: list[str], width: int) -> Any:
    """One position for a column that is passed on as a vector, otherwise a list."""
    found = positions(columns, known, width)
    return found[0] if isinstance(columns, str | int) else found


def _without_pandas(step: Any, width: int) -> Any:
    """Replace methods of pandas by scikit-learn's steps, which keep the width."""
    if isinstance(step, Pipeline):
        step.steps = [(name, _without_pandas(inner, width)) for name, inner in step.steps]
        return step
    if not isinstance(step, FunctionTransformer) or not isinstance(step.func, methodcaller):
        return step
    arguments: Any = step.func.__reduce__()[1]
    if arguments == ("astype", "object"):
        return "passthrough"
    if arguments[0] == "fillna" and len(arguments) == 2:
        return _constant_imputer(arguments[1], width)
    raise ExportError(f"FunctionTransformer({step.func!r}) needs pandas.")


def _constant_imputer(text: Any, width: int) -> SimpleImputer:
    imputer = SimpleImputer(strategy="constant", fill_value=text, keep_empty_features=True)
    return imputer.fit(np.full((1, width), "", dtype=object))

"""A fitted model made ready for the native fallback: it takes arrays, and asks for few types.

A serving machine has no pandas, so columns are found by position instead of by name, and pandas'
methods become scikit-learn's imputers. Works on a copy, on fitted attributes that scikit-learn may
change; so what comes out is compared with the original before it is used.
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
    """A copy of the fitted model that takes arrays with the signature's columns.

    Raises:
        ExportError: A step works on DataFrames in a way that is not known here.
    """
    names = list(signature.names)
    lowered = copy.deepcopy(model)
    _visit(lowered, lambda step: _lower(step, names), set())
    return _without_pandas(lowered, len(names))


def _visit(value: Any, act: Callable[[Any], None], seen: set[int]) -> None:
    """Every estimator within a value, inner ones first."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, BaseEstimator):
        for inner in list(vars(value).values()):
            _visit(inner, act, seen)
        act(value)
    elif isinstance(value, dict):
        for inner in list(value.values()):
            _visit(inner, act, seen)
    elif isinstance(value, list | tuple) or _holds_objects(value):
        for inner in value:
            _visit(inner, act, seen)


def _holds_objects(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == object and value.ndim > 0


def _lower(step: Any, names: list[str]) -> None:
    if isinstance(step, ColumnTransformer):
        _by_position(step, names)
    if "n_jobs" in vars(step):
        step.n_jobs = None  # a server's parallelism is its requests
    vars(step).pop("feature_names_in_", None)


def _by_position(step: ColumnTransformer, names: list[str]) -> None:
    known = list(getattr(step, "feature_names_in_", names))
    placed = [
        (name, inner, _place(columns, known, step.n_features_in_))
        for name, inner, columns in step.transformers_
    ]
    step.transformers_ = [
        (name, _without_pandas(inner, np.size(place)), place) for name, inner, place in placed
    ]
    kept = [part for part in step.transformers_ if part[0] != "remainder"]
    step.transformers = [(name, "passthrough", columns) for name, _, columns in kept]
    step._columns = [columns for _, _, columns in kept]


def _place(columns: Any, known: list[str], width: int) -> Any:
    """One position for a column that is handed on as a vector, else a list of them."""
    found = positions(columns, known, width)
    return found[0] if isinstance(columns, str | int) else found


def _without_pandas(step: Any, width: int) -> Any:
    """scikit-learn's own steps in place of methods of pandas; those keep the width."""
    if isinstance(step, Pipeline):
        step.steps = [(name, _without_pandas(inner, width)) for name, inner in step.steps]
        return step
    if not isinstance(step, FunctionTransformer) or not isinstance(step.func, methodcaller):
        return step
    arguments: Any = step.func.__reduce__()[1]
    if arguments == ("astype", "object"):
        return "passthrough"
    if arguments[0] == "fillna" and len(arguments) == 2:
        return _filler(arguments[1], width)
    raise ExportError(f"FunctionTransformer({step.func!r}) needs pandas.")


def _filler(text: Any, width: int) -> SimpleImputer:
    imputer = SimpleImputer(strategy="constant", fill_value=text, keep_empty_features=True)
    return imputer.fit(np.full((1, width), "", dtype=object))

"""Compiled trees are exact, even for values at or next to a threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import (
    BaggingClassifier,
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from tidemill.serving.model.onnx_runtime import OnnxRuntime
from tidemill.signature import Column, Signature
from tidemill.steps.convert.trees import _rounded
from tidemill.steps.export.compile import Compiled, compile_model, load_compiled

Floats = npt.NDArray[np.float64]
NAMES = ["a", "b", "c"]


def signature(model: Any, *, nullable: bool = False) -> Signature:
    columns = tuple(Column(name, "number", nullable) for name in NAMES)
    if hasattr(model, "classes_"):
        return Signature("classification", "y", columns, labels=tuple(model.classes_.tolist()))
    return Signature("regression", "y", columns)


def learned(estimator: Any, *, classes: int = 0, gaps: bool = False) -> tuple[Any, Compiled]:
    rng = np.random.default_rng(5)
    X = pd.DataFrame(rng.normal(size=(150, 3)) * [1, 1e3, 1e-3], columns=NAMES)
    y = X["a"] + X["b"] / 1e3 + rng.normal(size=150) / 3
    if classes:
        y = pd.Series(np.digitize(y, np.quantile(y, np.arange(1, classes) / classes)))
    if gaps:
        X = X.mask(rng.random(X.shape) < 0.15)
    model = estimator.fit(X, y)
    return model, compile_model(model, signature(model, nullable=gaps), X[:50])


def answered(compiled: Compiled, model: Any, X: Floats) -> Floats:
    runtime = load_compiled(compiled, signature(model))
    assert isinstance(runtime, OnnxRuntime)
    _, likely, values = runtime.run([X])
    found = values if likely is None else likely
    assert found is not None
    return found


def native(model: Any, X: Floats) -> Floats:
    frame = pd.DataFrame(X, columns=NAMES)
    found = model.predict_proba(frame) if hasattr(model, "classes_") else model.predict(frame)
    return np.asarray(found)


def thresholds(model: Any) -> Floats:
    """The thresholds of the first column in all trees, in the units of the input."""
    trees = [t.tree_ for t in np.ravel(getattr(model, "estimators_", [model]))]
    found = [t.threshold[(t.feature == 0) & (t.children_left != -1)] for t in trees]
    return np.concatenate(found)


def beside(values: Floats) -> Floats:
    """Each value, its neighbours in double and in single precision, and points between."""
    near = values.astype(np.float32)
    singles = [near, np.nextafter(near, np.float32(9e9)), np.nextafter(near, np.float32(-9e9))]
    steps = [*(s.astype(float) for s in singles), values]
    steps += [np.nextafter(values, np.inf), np.nextafter(values, -np.inf)]
    steps += [(singles[0].astype(float) + singles[i].astype(float)) / 2 for i in (1, 2)]
    return np.concatenate(steps)


@pytest.mark.parametrize(
    ("estimator", "classes"),
    [
        (DecisionTreeClassifier(random_state=0), 2),
        (RandomForestClassifier(20, random_state=0), 2),
        (RandomForestClassifier(20, random_state=0), 3),
        (RandomForestClassifier(20, max_depth=3, random_state=0), 2),
        (RandomForestClassifier(20, max_depth=3, random_state=0), 4),
        (RandomForestRegressor(20, random_state=0), 0),
        (ExtraTreesRegressor(20, max_depth=6, random_state=0), 0),
        (BaggingClassifier(random_state=0), 3),
    ],
    ids=lambda value: str(value).split("(")[0],
)
def test_a_forest_is_exact_at_its_thresholds(estimator: Any, classes: int) -> None:
    model, compiled = learned(estimator, classes=classes)
    first = beside(thresholds(model))
    rng = np.random.default_rng(0)
    X = np.column_stack([first, rng.normal(size=len(first)) * 1e3, rng.normal(size=len(first))])
    np.testing.assert_array_equal(answered(compiled, model, X), native(model, X))


@pytest.mark.parametrize("classes", [0, 2, 3])
def test_a_forest_after_a_scaler_is_exact(classes: int) -> None:
    kind = RandomForestClassifier if classes else RandomForestRegressor
    model, compiled = learned(
        make_pipeline(StandardScaler(), kind(30, random_state=1)), classes=classes
    )
    X = np.random.default_rng(2).normal(size=(3000, 3)) * [1, 1e3, 1e-3]
    np.testing.assert_array_equal(answered(compiled, model, X), native(model, X))
    assert compiled.parity.max_relative_error == 0.0


@pytest.mark.parametrize(
    ("estimator", "classes"),
    [
        (GradientBoostingRegressor(n_estimators=20), 0),
        (HistGradientBoostingRegressor(max_iter=20), 0),
        (HistGradientBoostingClassifier(max_iter=10), 2),
        (HistGradientBoostingClassifier(max_iter=10), 3),
    ],
    ids=lambda value: str(value).split("(")[0],
)
def test_boosting_is_exact_up_to_rounding(estimator: Any, classes: int) -> None:
    _, compiled = learned(estimator, classes=classes)
    assert compiled.runtime == "onnx"
    assert compiled.parity.max_relative_error < 1e-12


def test_histogram_boosting_compares_doubles() -> None:
    model, compiled = learned(HistGradientBoostingRegressor(max_iter=10))
    splits = np.concatenate([t.nodes["num_threshold"] for [t] in model._predictors])
    X = np.zeros((len(splits) * 3, 3))
    X[:, 0] = np.concatenate([splits, np.nextafter(splits, np.inf), np.nextafter(splits, -9e9)])
    np.testing.assert_allclose(answered(compiled, model, X), native(model, X), rtol=1e-13)


@pytest.mark.parametrize(
    ("estimator", "classes"),
    [
        (RandomForestClassifier(10, random_state=0), 3),
        (HistGradientBoostingClassifier(max_iter=10), 2),
    ],
    ids=["forest", "boosting"],
)
def test_missing_values_take_the_branch_learned_in_training(estimator: Any, classes: int) -> None:
    model, compiled = learned(estimator, classes=classes, gaps=True)
    X = np.random.default_rng(3).normal(size=(500, 3))
    X[np.random.default_rng(4).random(X.shape) < 0.4] = np.nan
    runtime = load_compiled(compiled, signature(model, nullable=True))
    likely = runtime.run([X])[1]
    assert likely is not None
    np.testing.assert_allclose(likely, native(model, X), rtol=1e-13)


def test_a_tree_of_one_leaf_is_compiled() -> None:
    X = pd.DataFrame({name: [1.0, 2.0, 3.0] for name in NAMES})
    model = HistGradientBoostingRegressor(max_iter=2).fit(X, [5.0, 5.0, 5.0])
    compiled = compile_model(model, signature(model), X)
    assert answered(compiled, model, X.to_numpy()).tolist() == [5.0, 5.0, 5.0]


@settings(max_examples=300)
@given(
    st.floats(width=64, allow_nan=False, allow_infinity=False, min_value=-3e38, max_value=3e38),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)
def test_rounding_a_threshold_changes_no_comparison(threshold: float, value: float) -> None:
    (rounded,) = _rounded([threshold], np.float32)
    assert (value <= threshold) == (np.float32(value) <= rounded)

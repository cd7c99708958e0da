"""XGBoost, LightGBM and CatBoost compile to ONNX trees, if they are installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tidemill.project import Candidate, Project
from tidemill.steps.data.preprocessing import build_pipeline
from tidemill.steps.data.signature_inference import infer_signature
from tidemill.steps.export.compile import Compiled, compile_model

SKIP = "needs the extra 'boosting'"


def compiled(estimator: Any, classes: int, *, raw: bool = False) -> Compiled:
    """Fitted behind the default preprocessing, or on raw columns with missing values."""
    rng = np.random.default_rng(2)
    X = pd.DataFrame(rng.normal(size=(200, 4)) * [1, 1e3, 1e-3, 1], columns=list("abcd"))
    leaning = X["a"] + X["b"] / 1e3 + rng.normal(size=200) / 4
    X["b"] = X["b"].mask(rng.random(200) < 0.2)
    y: Any = (leaning - leaning.min() + 1).to_numpy()
    if classes:
        y = np.digitize(leaning, np.quantile(leaning, np.arange(1, classes) / classes))
    settings: dict[str, Any] = {"preprocess": "none"} if raw else {}
    project = Project("p", lambda: X, "y", [Candidate("c", object)], **settings)
    model = build_pipeline(estimator, X, project).fit(X[:150], y[:150])
    task: Any = "classification" if classes else "regression"
    return compile_model(model, infer_signature(X, y, task, project), X[150:])


def check(estimator: Any, classes: int, raw: bool, error: float) -> None:
    found = compiled(estimator, classes, raw=raw)
    assert (found.runtime, found.reason) == ("onnx", None)
    assert found.parity.max_relative_error < error
    assert found.outputs.label is None


@pytest.mark.parametrize("raw", [False, True], ids=["filled", "with gaps"])
@pytest.mark.parametrize("classes", [0, 2, 3])
def test_xgboost_compiles(classes: int, raw: bool) -> None:
    xgboost = pytest.importorskip("xgboost", reason=SKIP)
    kind = xgboost.XGBClassifier if classes else xgboost.XGBRegressor
    check(kind(n_estimators=10, n_jobs=1), classes, raw, 5e-6)  # its own sums are single


@pytest.mark.parametrize("objective", ["count:poisson", "reg:gamma", "reg:absoluteerror"])
def test_the_links_of_xgboost_are_applied(objective: str) -> None:
    xgboost = pytest.importorskip("xgboost", reason=SKIP)
    check(xgboost.XGBRegressor(n_estimators=5, objective=objective, n_jobs=1), 0, False, 5e-6)


@pytest.mark.parametrize("raw", [False, True], ids=["filled", "with gaps"])
@pytest.mark.parametrize("classes", [0, 2, 3])
def test_lightgbm_compiles(classes: int, raw: bool) -> None:
    lightgbm = pytest.importorskip("lightgbm", reason=SKIP)
    kind = lightgbm.LGBMClassifier if classes else lightgbm.LGBMRegressor
    check(kind(n_estimators=10, min_child_samples=5, n_jobs=1, verbose=-1), classes, raw, 1e-12)


def test_the_averages_and_links_of_lightgbm_are_applied() -> None:
    lightgbm = pytest.importorskip("lightgbm", reason=SKIP)
    common = {"n_estimators": 5, "min_child_samples": 5, "n_jobs": 1, "verbose": -1}
    forest = {"boosting_type": "rf", "subsample": 0.5, "subsample_freq": 1}
    check(lightgbm.LGBMClassifier(**common, **forest), 3, False, 1e-12)
    check(lightgbm.LGBMRegressor(**common, objective="poisson"), 0, False, 1e-12)


@pytest.mark.parametrize("raw", [False, True], ids=["filled", "with gaps"])
@pytest.mark.parametrize("classes", [0, 2, 3])
def test_catboost_compiles(classes: int, raw: bool) -> None:
    catboost = pytest.importorskip("catboost", reason=SKIP)
    kind = catboost.CatBoostClassifier if classes else catboost.CatBoostRegressor
    quiet = {"verbose": 0, "allow_writing_files": False, "thread_count": 1}
    check(kind(iterations=10, **quiet), classes, raw, 1e-12)
    if raw:
        check(kind(iterations=10, nan_mode="Max", **quiet), classes, raw, 1e-12)

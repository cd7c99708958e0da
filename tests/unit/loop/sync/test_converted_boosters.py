"""External boosters: their native formats need no trust and compile like our own."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tidemill.errors import ExportError
from tidemill.loop.sync.model_converter import convert
from tidemill.stores.mlflow.external_models import read_model_folder

SKIP = "needs the extra 'boosting'"
RNG = np.random.default_rng(4)
TABLE = pd.DataFrame(RNG.normal(size=(150, 3)), columns=["a", "b", "c"])
KINDS = (TABLE["a"] + TABLE["b"] > 0).astype(int).to_numpy()
VALUES = (TABLE["a"] * 2 - TABLE["c"]).to_numpy()
pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow and the boosters, when logging


def saved(flavor: str, model: Any, folder: Path, **options: Any) -> Path:
    """The model as MLflow saves it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module(f"mlflow.{flavor}")
        from mlflow.models import infer_signature

        signature = infer_signature(TABLE, model.predict(TABLE) if not options.get("raw") else None)
        options.pop("raw", None)
        options.setdefault("input_example", TABLE[:5])
        module.save_model(
            model, str(folder / "model"), signature=signature, pip_requirements=[], **options
        )
    return folder / "model"


@pytest.mark.parametrize("classes", [True, False])
def test_xgboosts_own_format_needs_no_trust(tmp_path: Path, classes: bool) -> None:
    xgboost = pytest.importorskip("xgboost", reason=SKIP)
    kind = xgboost.XGBClassifier if classes else xgboost.XGBRegressor
    model = kind(n_estimators=8, n_jobs=1).fit(TABLE, KINDS if classes else VALUES)
    made = convert(read_model_folder(saved("xgboost", model, tmp_path)), tmp_path)
    assert made.compiled.runtime == "onnx"
    assert made.signature.labels == ((0, 1) if classes else ())
    np.testing.assert_allclose(made.predictions.predictions, model.predict(made.rows), rtol=1e-5)


def test_xgboosts_booster_keeps_its_own_predictions(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost", reason=SKIP)
    booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(TABLE, VALUES), 8)
    made = convert(read_model_folder(saved("xgboost", booster, tmp_path, raw=True)), tmp_path)
    assert (made.compiled.runtime, made.signature.task) == ("onnx", "regression")
    found = booster.predict(xgboost.DMatrix(made.rows))
    np.testing.assert_allclose(made.predictions.predictions, found, rtol=1e-5)


def pyfunc_answers(folder: Path, rows: Any) -> Any:
    import mlflow.pyfunc

    return np.asarray(mlflow.pyfunc.load_model(str(folder)).predict(rows.astype(float)))


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror", "count:poisson"])
def test_xgboosts_booster_predicts_the_same_as_pyfunc(tmp_path: Path, objective: str) -> None:
    xgboost = pytest.importorskip("xgboost", reason=SKIP)
    truth = VALUES if objective == "reg:squarederror" else KINDS
    settings = {"objective": objective, "nthread": 1}
    booster = xgboost.train(settings, xgboost.DMatrix(TABLE, truth), 8)
    folder = saved("xgboost", booster, tmp_path, raw=True)
    made = convert(read_model_folder(folder), tmp_path)
    assert (made.compiled.runtime, made.signature.task) == ("onnx", "regression")
    expected = pyfunc_answers(folder, made.rows)
    np.testing.assert_allclose(made.predictions.predictions, expected, rtol=1e-5)


@pytest.mark.parametrize("objective", ["binary", "regression", "poisson"])
def test_lightgbms_booster_predicts_the_same_as_pyfunc(tmp_path: Path, objective: str) -> None:
    lightgbm = pytest.importorskip("lightgbm", reason=SKIP)
    truth = VALUES if objective == "regression" else KINDS
    settings = {"objective": objective, "num_threads": 1, "verbose": -1, "sigmoid": 2.0}
    booster = lightgbm.train(settings, lightgbm.Dataset(TABLE, truth), 8)
    folder = saved("lightgbm", booster, tmp_path)
    made = convert(read_model_folder(folder), tmp_path)
    assert (made.compiled.runtime, made.signature.task) == ("onnx", "regression")
    expected = pyfunc_answers(folder, made.rows)
    np.testing.assert_allclose(made.predictions.predictions, expected, rtol=1e-6)


def test_lightgbms_booster_of_several_classes_is_left_to_pyfunc(tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm", reason=SKIP)
    settings = {"objective": "multiclass", "num_class": 3, "num_threads": 1, "verbose": -1}
    classes = RNG.integers(0, 3, len(TABLE))
    booster = lightgbm.train(settings, lightgbm.Dataset(TABLE, classes), 4)
    with pytest.raises(ExportError, match=r"several classes.*--trust"):
        convert(read_model_folder(saved("lightgbm", booster, tmp_path)), tmp_path)


@pytest.mark.parametrize("classes", [True, False])
def test_catboosts_own_format_needs_no_trust(tmp_path: Path, classes: bool) -> None:
    catboost = pytest.importorskip("catboost", reason=SKIP)
    kind = catboost.CatBoostClassifier if classes else catboost.CatBoostRegressor
    model = kind(iterations=8, verbose=0, allow_writing_files=False, thread_count=1)
    model.fit(TABLE, KINDS if classes else VALUES)
    made = convert(read_model_folder(saved("catboost", model, tmp_path)), tmp_path)
    assert made.compiled.runtime == "onnx"
    found = np.asarray(model.predict(made.rows)).reshape(-1)
    np.testing.assert_allclose(made.predictions.predictions, found, rtol=1e-6)


def test_a_pickled_lightgbm_needs_trust(tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm", reason=SKIP)
    model = lightgbm.LGBMClassifier(n_estimators=8, n_jobs=1, verbose=-1).fit(TABLE, KINDS)
    folder = saved("lightgbm", model, tmp_path, serialization_format="cloudpickle")
    with pytest.raises(ExportError, match="pickled"):
        convert(read_model_folder(folder), tmp_path)
    made = convert(read_model_folder(folder), tmp_path, trust=True)
    assert made.compiled.runtime == "onnx"
    assert (made.predictions.predictions == model.predict(made.rows)).all()

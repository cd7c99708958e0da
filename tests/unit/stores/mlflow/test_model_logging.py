"""The logged MLflow model, loaded by mlflow.pyfunc, predicts as the fitted pipeline does."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from tidemill.errors import ExportError
from tidemill.signature import Column, Signature, Tensor
from tidemill.steps.data.signature_inference import infer_signature
from tidemill.stores.mlflow.autolog import autologging
from tidemill.stores.mlflow.model_logging import (
    log_model,
    mlflow_signature,
    requirements,
    skops_types,
)
from tidemill.stores.mlflow.tracking import Tracking

RNG = np.random.default_rng(0)
FRAME = pd.DataFrame({"size": RNG.normal(size=60), "count": RNG.integers(0, 9, 60)})
LABELS = np.array(["no", "yes"])[(FRAME["size"] > 0).to_numpy().astype(int)]
SIGNATURE = Signature(
    task="classification",
    target="kind",
    columns=(Column("size", "number"), Column("count", "integer")),
    labels=("no", "yes"),
)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    folder = tmp_path_factory.mktemp("mlflow")
    return Tracking(f"sqlite:///{folder / 'mlflow.db'}", artifact_root=folder / "artifacts")


@pytest.fixture
def active(tracking: Tracking) -> Iterator[None]:
    """A store that is also MLflow's own tracking URI, for `mlflow.pyfunc.load_model`."""
    tracking.experiment("exp")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking.tracking_uri)
    yield
    mlflow.set_tracking_uri(before)


def fitted(*steps: Any, X: Any = FRAME, y: Any = LABELS) -> Pipeline:
    return Pipeline([(f"s{i}", step) for i, step in enumerate(steps)]).fit(X, y)


def keep(tracking: Tracking, model: Any, signature: Signature = SIGNATURE, X: Any = FRAME) -> Any:
    with tracking.run("exp", "run") as run:
        run.log_metrics({"accuracy": 1.0})
        logged = log_model(run, model, signature, X, params={"C": 1}, metrics={"accuracy": 1.0})
    return run, logged


@pytest.mark.usefixtures("active")
def test_a_common_pipeline_is_saved_without_pickle(tracking: Tracking) -> None:
    model = fitted(StandardScaler(), LogisticRegression())
    run, logged = keep(tracking, model)
    assert logged.format == "skops"
    for uri in (f"runs:/{run.id}/model", f"models:/{logged.id}"):
        loaded = mlflow.pyfunc.load_model(uri)
        np.testing.assert_array_equal(loaded.predict(FRAME), model.predict(FRAME))
    assert [column.name for column in loaded.metadata.signature.inputs] == ["size", "count"]
    assert len(loaded.input_example) == 3


@pytest.mark.usefixtures("active")
def test_user_code_is_saved_with_cloudpickle(tracking: Tracking) -> None:
    model = fitted(FunctionTransformer(lambda X: X * 2), LogisticRegression())
    run, logged = keep(tracking, model)
    assert logged.format == "cloudpickle"
    loaded = mlflow.pyfunc.load_model(f"runs:/{run.id}/model")
    np.testing.assert_array_equal(loaded.predict(FRAME), model.predict(FRAME))


@pytest.mark.usefixtures("active")
def test_code_from_a_project_file_loads_without_the_file(tracking: Tracking) -> None:
    name = "tidemill_project_mine"
    module = types.ModuleType(name)
    exec("def double(X):\n    return X * 2\n", module.__dict__)
    module.double.__module__ = name
    sys.modules[name] = module
    try:
        model = fitted(FunctionTransformer(module.double), LogisticRegression())
        run, _ = keep(tracking, model)
    finally:
        del sys.modules[name]
    loaded = mlflow.pyfunc.load_model(f"runs:/{run.id}/model")
    np.testing.assert_array_equal(loaded.predict(FRAME), model.predict(FRAME))


@pytest.mark.usefixtures("active")
def test_missing_values_and_text_pass_mlflows_checks(tracking: Tracking) -> None:
    from tidemill.steps.data.preprocessing import preprocessor

    frame = pd.DataFrame(
        {
            "n": [1.0, np.nan, 3.0] * 20,
            "b": [1.0, 0.0, np.nan] * 20,
            "whole": [1, 2, 3] * 20,
            "yes": [True, False, True] * 20,
            "t": ["x", np.nan, "y"] * 20,
        }
    )
    y = np.array([0, 1, 0] * 20)
    signature = Signature(
        task="classification",
        target="k",
        columns=(
            Column("n", "number", nullable=True),
            Column("b", "boolean", nullable=True),
            Column("whole", "integer"),
            Column("yes", "boolean"),
            Column("t", "text", nullable=True),
        ),
        labels=(0, 1),
    )
    model = fitted(preprocessor(frame), LogisticRegression(), X=frame, y=y)
    run, _ = keep(tracking, model, signature, frame)
    loaded = mlflow.pyfunc.load_model(f"runs:/{run.id}/model")
    np.testing.assert_array_equal(loaded.predict(frame), model.predict(frame))


@pytest.mark.usefixtures("active")
def test_a_tensor_model_takes_its_array(tracking: Tracking) -> None:
    X = RNG.normal(size=(30, 2, 2)).astype("float32")
    flat = FunctionTransformer(np.reshape, kw_args={"shape": (-1, 4)})
    model = fitted(flat, LinearRegression(), X=X, y=X.sum(axis=(1, 2)))
    signature = Signature(task="regression", target="y", tensor=Tensor("image", (2, 2)))
    run, _ = keep(tracking, model, signature, X)
    loaded = mlflow.pyfunc.load_model(f"runs:/{run.id}/model")
    np.testing.assert_allclose(loaded.predict(X), model.predict(X), rtol=1e-6)


def test_the_models_page_shows_its_metrics_and_run(tracking: Tracking) -> None:
    run, logged = keep(tracking, fitted(LogisticRegression()))
    model = tracking.call(lambda client: client.get_logged_model(logged.id))
    assert (model.name, str(model.status), model.source_run_id) == ("model", "READY", run.id)
    assert model.params == {"C": "1"}
    assert [(m.key, m.value) for m in model.metrics] == [("accuracy", 1.0)]
    outputs = tracking.call(lambda client: client.get_run(run.id)).outputs
    assert [output.model_id for output in outputs.model_outputs] == [logged.id]


def test_a_model_that_cannot_be_saved_is_marked_failed(tracking: Tracking) -> None:
    class Stubborn(LogisticRegression):
        def __reduce__(self) -> Any:
            raise TypeError("not me")

        def __getstate__(self) -> Any:
            raise TypeError("not me")

    with pytest.raises(ExportError, match="not me"), tracking.run("exp", "run") as run:
        log_model(run, Stubborn().fit(FRAME, LABELS), SIGNATURE, FRAME,
                  params={}, metrics={})  # fmt: skip
    found = tracking.call(
        lambda client: client.search_logged_models([run.experiment_id], max_results=1)
    )
    assert str(found[0].status) == "FAILED"


def test_requirements_pin_versions_and_include_third_party_packages() -> None:
    found = requirements(fitted(LogisticRegression()), "skops")
    assert [text.split("==")[0] for text in found] == [
        "mlflow", "scikit-learn", "numpy", "pandas", "skops",
    ]  # fmt: skip

    class Foreign(LogisticRegression):
        pass

    Foreign.__module__ = "matplotlib.models"
    foreign = fitted(LogisticRegression())
    foreign.steps[-1] = ("s0", Foreign())
    assert any(text.startswith("matplotlib==") for text in requirements(foreign, "skops"))


def test_skops_types_is_none_where_skops_cannot_save_the_model() -> None:
    assert skops_types(fitted(LogisticRegression())) is not None
    assert skops_types(FunctionTransformer(lambda X: X)) is None


@pytest.mark.parametrize(
    ("labels", "kind"), [(("a", "b"), "string"), ((1, 2), "long"), ((False, True), "boolean")]
)
def test_the_output_schema_has_the_labels_type(labels: Any, kind: str) -> None:
    X = FRAME.head(len(labels))
    signature = infer_signature(X, np.array(labels), "classification", _Project())
    assert mlflow_signature(signature).outputs.to_dict()[0]["type"] == kind


class _Project:
    target, tensor, unknown_categories = "y", None, "refuse"


def test_autologging_adds_to_the_run_and_creates_no_run_or_model(
    tracking: Tracking, tmp_path: Path
) -> None:
    before = mlflow.get_tracking_uri()
    with tracking.run("auto", "one") as run:
        run.log_params({"C": 1})
        with autologging(run):
            fitted(StandardScaler(), LogisticRegression())
        fitted(StandardScaler(), LogisticRegression())
    found = tracking.call(lambda client: client.get_run(run.id))
    assert "training_accuracy_score" in found.data.metrics
    assert {"C", "s0", "s1__C"} <= set(found.data.params)
    assert found.info.status == "FINISHED"
    runs = tracking.call(lambda client: client.search_runs([run.experiment_id]))
    models = tracking.call(lambda client: client.search_logged_models([run.experiment_id]))
    assert (len(runs), len(models)) == (1, 0)
    assert mlflow.active_run() is None
    assert mlflow.get_tracking_uri() == before

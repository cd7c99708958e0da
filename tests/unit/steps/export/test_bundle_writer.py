from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import NearestCentroid

from tidemill import bundle
from tidemill.bundle import Bundle, file_digest
from tidemill.errors import ExportError
from tidemill.project import Candidate, Project
from tidemill.serving.model.loading import smoke_test
from tidemill.serving.model.runtime import load_runtime
from tidemill.steps.data.preprocessing import build_pipeline
from tidemill.steps.data.signature_inference import infer_signature
from tidemill.steps.export.bundle_writer import BundleMetadata, HeldOutRows, export_bundle
from tidemill.steps.export.model_io import predict_in_batches


class Own(ClassifierMixin, BaseEstimator):
    def fit(self, X: Any, y: Any) -> Own:
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: Any) -> Any:
        return np.repeat(self.classes_[:1], len(X))


def iris() -> tuple[pd.DataFrame, Any]:
    data = load_iris(as_frame=True)
    order = np.random.default_rng(0).permutation(150)
    X = data.data.iloc[order].reset_index(drop=True)
    X["garden"] = np.where(np.arange(150) % 3 == 0, "north", "south")
    X.loc[::7, "garden"] = np.nan
    X["wild"] = np.arange(150) % 2 == 0
    return X, data.target_names[data.target.to_numpy()[order]]


def exported(folder: Path, estimator: Any, **settings: Any) -> tuple[Any, Bundle, pd.DataFrame]:
    X, y = iris()
    if isinstance(estimator, Ridge):
        y = X["sepal length (cm)"].to_numpy() * 2
    project = Project("iris", lambda: X, "species", [Candidate("c", object)])
    model = build_pipeline(estimator, X, project).fit(X[:100], y[:100])
    task = "regression" if isinstance(estimator, Ridge) else "classification"
    signature = infer_signature(X[:100], y[:100], task, project)
    made = export_bundle(
        model,
        signature,
        X[:100],
        HeldOutRows(X[100:], y[100:]),
        folder,
        BundleMetadata("iris", **settings),
    )
    return model, made, X


def test_a_bundle_has_all_files_and_names_its_source(tmp_path: Path) -> None:
    source = {"run_id": "abc", "candidate": "logistic"}
    metrics = {"accuracy": 0.9, "roc_auc": float("nan")}
    _, made, _ = exported(
        tmp_path / "b", LogisticRegression(), metrics=metrics, versions={"x": "1"}, source=source
    )
    files = sorted(path.name for path in made.path.iterdir())
    assert files == [
        "example.json", "manifest.json", "model.onnx", "profile.json", "signature.json",
    ]  # fmt: skip
    manifest = made.manifest
    assert (manifest.model, manifest.runtime, manifest.fallback_reason) == ("iris", "onnx", None)
    assert manifest.metrics == {"accuracy": 0.9}
    assert manifest.source == source
    assert manifest.versions.keys() >= {"python", "scikit-learn", "onnx", "onnxruntime", "x"}
    assert manifest.parity is not None
    assert manifest.parity.labels_equal
    assert manifest.parity.rows >= 50
    assert manifest.parity.max_relative_error < 1e-9
    assert datetime.fromisoformat(manifest.created).utcoffset() is not None
    for name, entry in manifest.files.items():
        assert entry.sha256 == file_digest(made.path / name)


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        RandomForestClassifier(10),
        VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], voting="soft"),
        Ridge(),
        NearestCentroid(),
        GaussianProcessClassifier(max_iter_predict=10),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_server_predicts_like_the_model(estimator: Any, tmp_path: Path) -> None:
    model, made, X = exported(tmp_path / "b", estimator)
    runtime = load_runtime(made)
    smoke_test(made, runtime)
    rows = X[100:]
    found = predict_in_batches(runtime, made.manifest.inputs, made.signature, rows)
    expected = model.predict(rows)
    if made.signature.labels:
        assert found.predictions.tolist() == expected.tolist()
    else:
        np.testing.assert_allclose(found.predictions, expected, rtol=1e-9)
    if found.probabilities is not None:
        np.testing.assert_allclose(found.probabilities, model.predict_proba(rows), rtol=1e-7)


def test_the_example_shows_every_label_with_its_probabilities(tmp_path: Path) -> None:
    model, made, X = exported(tmp_path / "b", RandomForestClassifier(10, random_state=0))
    example = made.example()
    assert len(example.rows) == len(example.answers) == 5
    assert {answer.prediction for answer in example.answers} == set(made.signature.labels)
    row = dict(zip(made.signature.names, example.rows[0], strict=True))
    assert isinstance(row["wild"], bool)
    frame = pd.DataFrame([row]).fillna({"garden": np.nan})
    assert example.answers[0].probabilities == tuple(model.predict_proba(frame)[0])
    assert X.columns.tolist() == list(row)


def test_a_model_without_compiled_form_falls_back_with_the_reason(tmp_path: Path) -> None:
    _, made, _ = exported(tmp_path / "b", NearestCentroid())
    manifest = made.manifest
    assert manifest.runtime == "skops"
    assert (made.path / "model.skops").is_file()
    assert manifest.fallback_reason == "There is no converter for NearestCentroid."
    assert manifest.outputs.label == "label"


def test_a_model_that_cannot_be_served_is_refused_with_both_reasons(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as refused:
        exported(tmp_path / "b", Own())
    assert "no converter for Own" in refused.value.detail
    assert "Own, which this server does not trust" in refused.value.detail
    assert refused.value.remedy is not None
    assert not list((tmp_path / "b").iterdir())


def test_a_model_that_fails_on_held_out_rows_is_refused(tmp_path: Path) -> None:
    class Failing(Own):
        def predict(self, X: Any) -> Any:
            raise ValueError("out of order")

    with pytest.raises(
        ExportError, match="itself fails on held-out rows: ValueError: out of order"
    ):
        exported(tmp_path / "b", Failing())


def test_held_out_rows_that_the_signature_refuses_are_left_out(tmp_path: Path) -> None:
    X, y = iris()
    X.loc[110, "sepal width (cm)"] = np.nan
    X.loc[111, "garden"] = "west"
    project = Project("iris", lambda: X, "species", [Candidate("c", object)])
    model = build_pipeline(LogisticRegression(), X, project).fit(X[:100], y[:100])
    signature = infer_signature(X[:100], y[:100], "classification", project)
    made = export_bundle(
        model,
        signature,
        X[:100],
        HeldOutRows(X[100:], y[100:]),
        tmp_path / "b",
        BundleMetadata("iris"),
    )
    assert made.manifest.runtime == "onnx"
    assert json.loads((made.path / "profile.json").read_text())["holdout"]["rows"] == 48


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ExportError, match="is not empty"):
        exported(tmp_path, LogisticRegression())
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_bundle_reads_back_by_its_digest(tmp_path: Path) -> None:
    _, made, _ = exported(tmp_path / "b", LogisticRegression())
    assert bundle.read(made.path, digest=made.digest) == made

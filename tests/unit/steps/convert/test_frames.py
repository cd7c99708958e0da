"""The compiled model predicts like the fitted pipeline, whatever columns a table has."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB

from tidemill.project import Candidate, Project
from tidemill.signature import Signature
from tidemill.steps.data.preprocessing import build_pipeline
from tidemill.steps.data.signature_inference import infer_signature
from tidemill.steps.export.compile import Compiled, compile_model, load_compiled
from tidemill.steps.export.model_io import predict_in_batches

ROWS = 60
TEXTS = ["", "a", "A", "ß", "日本", "a b", "missing", "nan", "None", "'quote\"", "x" * 300]


@dataclass
class Drawn:
    """A column to make: its kind, whether it has gaps, and the seed of its values."""

    kind: str
    gaps: bool
    seed: int

    def values(self) -> pd.Series[Any]:
        rng = np.random.default_rng(self.seed)
        made: Any = {
            "number": lambda: rng.normal(size=ROWS) * 10.0 ** rng.integers(-6, 9),
            "integer": lambda: rng.integers(-(2**40), 2**40, ROWS),
            "small": lambda: rng.integers(0, 3, ROWS),
            "boolean": lambda: rng.random(ROWS) < 0.5,
            "text": lambda: rng.choice(np.array(TEXTS, object), ROWS),
        }[self.kind]()
        series = pd.Series(made)
        if not self.gaps:
            return series
        gaps = rng.random(ROWS) < 0.3
        if self.kind == "text":
            return series.astype(object).mask(gaps, np.nan)
        return series.astype("float64").mask(gaps, np.nan)


columns = st.lists(
    st.builds(
        Drawn,
        st.sampled_from(["number", "integer", "small", "boolean", "text"]),
        st.booleans(),
        st.integers(0, 999),
    ),
    min_size=1,
    max_size=6,
)
ESTIMATORS = {
    "logistic": lambda: LogisticRegression(),
    "forest": lambda: RandomForestClassifier(5, random_state=0),
    "boosting": lambda: HistGradientBoostingClassifier(max_iter=3),
    "bayes": lambda: GaussianNB(),
    "ridge": lambda: Ridge(),
    "trees": lambda: RandomForestRegressor(5, random_state=0),
}


def made(drawn: list[Drawn], name: str, accept: bool) -> tuple[Any, Signature, pd.DataFrame]:
    """A pipeline fitted on the first rows, its signature and all rows."""
    X = pd.DataFrame({f"c{i}": column.values() for i, column in enumerate(drawn)})
    rng = np.random.default_rng(len(drawn))
    task = "regression" if name in ("ridge", "trees") else "classification"
    y: Any = rng.normal(size=ROWS) if task == "regression" else rng.choice(["no", "yes"], ROWS)
    project = Project(
        "p",
        lambda: X,
        "y",
        [Candidate("c", object)],
        unknown_categories="accept" if accept else "refuse",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = build_pipeline(ESTIMATORS[name](), X, project).fit(X[:40], y[:40])
    return model, infer_signature(X, y, task, project), X  # type: ignore[arg-type]


def check(compiled: Compiled, model: Any, signature: Signature, X: pd.DataFrame) -> None:
    found = predict_in_batches(load_compiled(compiled, signature), compiled.inputs, signature, X)
    if signature.task == "regression":
        np.testing.assert_allclose(found.predictions, model.predict(X), rtol=1e-9)
        return
    assert found.predictions.tolist() == model.predict(X).tolist()
    if found.probabilities is not None:
        expected = model.predict_proba(X)
        np.testing.assert_allclose(found.probabilities, expected, rtol=1e-7, atol=1e-12)


@settings(max_examples=40)
@given(columns, st.sampled_from(sorted(ESTIMATORS)), st.booleans())
def test_a_compiled_pipeline_predicts_like_the_fitted_one(
    drawn: list[Drawn], name: str, accept: bool
) -> None:
    model, signature, X = made(drawn, name, accept)
    compiled = compile_model(model, signature, X[40:])
    assert (compiled.runtime, compiled.reason) == ("onnx", None)
    check(compiled, model, signature, X)
    check(compiled, model, signature, X[:1])


def test_all_numeric_columns_are_one_input_in_their_order() -> None:
    drawn = [Drawn("number", True, 1), Drawn("boolean", False, 2), Drawn("integer", True, 3)]
    model, signature, X = made(drawn, "logistic", False)
    [entry] = compile_model(model, signature, X).inputs
    assert (entry.dtype, entry.columns, entry.missing) == ("float64", ("c0", "c1", "c2"), None)


def test_mixed_columns_are_one_numeric_and_one_text_input() -> None:
    drawn = [Drawn("text", True, 1), Drawn("number", False, 2), Drawn("text", False, 3)]
    model, signature, X = made(drawn, "logistic", False)
    numbers, texts = compile_model(model, signature, X).inputs
    assert (numbers.dtype, numbers.columns) == ("float64", ("c1",))
    assert (texts.dtype, texts.columns) == ("string", ("c0", "c2"))
    assert texts.missing is not None


def test_integers_beyond_single_precision_keep_their_last_digit() -> None:
    X = pd.DataFrame({"id": [2**24, 2**24 + 1, 2**53 - 1, 2**53] * 10})
    y = np.array([0.0, 1.0, 2.0, 3.0] * 10)
    project = Project("p", lambda: X, "y", [Candidate("c", object)], preprocess="none")
    model = build_pipeline(Ridge(alpha=0.0), X, project).fit(X, y)
    signature = infer_signature(X, y, "regression", project)
    compiled = compile_model(model, signature, X)
    assert compiled.inputs[0].dtype == "float64"
    check(compiled, model, signature, X)


def test_a_classifier_has_no_label_output_if_the_argmax_is_sufficient() -> None:
    drawn = [Drawn("number", False, 1)]
    for name in ("logistic", "forest", "boosting", "bayes"):
        model, signature, X = made(drawn, name, False)
        outputs = compile_model(model, signature, X).outputs
        assert (outputs.label, outputs.probabilities) == (None, "probabilities")


@pytest.mark.parametrize("labels", [(False, True), (3, 7), ("no", "yes"), (0, 1, 2)])
@pytest.mark.parametrize("estimator", [LogisticRegression(), RandomForestClassifier(5)])
def test_labels_of_every_type_are_returned(labels: tuple[Any, ...], estimator: Any) -> None:
    X = pd.DataFrame({"a": np.random.default_rng(0).normal(size=ROWS)})
    y = np.array(labels)[np.digitize(X["a"], np.linspace(-0.5, 0.5, len(labels) - 1))]
    project = Project("p", lambda: X, "y", [Candidate("c", object)])
    model = build_pipeline(estimator, X, project).fit(X, y)
    signature = infer_signature(X, y, "classification", project)
    compiled = compile_model(model, signature, X)
    found = predict_in_batches(load_compiled(compiled, signature), compiled.inputs, signature, X)
    assert signature.labels == labels
    assert found.predictions.tolist() == model.predict(X).tolist()

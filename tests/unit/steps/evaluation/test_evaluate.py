"""Metrics: scikit-learn's definitions, including edge cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from tidemill import Candidate, Gate, Project
from tidemill.errors import ProjectError
from tidemill.metrics import METRICS
from tidemill.steps.evaluation.evaluate import (
    classification_metrics,
    evaluate,
    log_loss,
    regression_metrics,
    roc_auc,
)


@st.composite
def answers(draw: Any) -> tuple[Any, Any, Any, list[str]]:
    """Targets, answers and probabilities of two to five classes, every class among the targets."""
    k = draw(st.integers(2, 5))
    n = draw(st.integers(2 * k, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = [f"class {i}" for i in range(k)]
    y = np.array(labels)[np.concatenate([np.arange(k), rng.integers(0, k, n - k)])]
    probabilities = rng.dirichlet(np.ones(k), n)
    return y, np.array(labels)[probabilities.argmax(axis=1)], probabilities, labels


@given(answers())
def test_classification_metrics_match_scikit_learn(given: Any) -> None:
    y, predicted, probabilities, labels = given
    found = classification_metrics(y, predicted, probabilities, labels)
    macro = {"average": "macro", "zero_division": 0}
    weighted = {"average": "weighted", "zero_division": 0}
    scores = probabilities[:, 1] if len(labels) == 2 else probabilities
    expected = {
        "accuracy": sk.accuracy_score(y, predicted),
        "precision": sk.precision_score(y, predicted, **macro),
        "recall": sk.recall_score(y, predicted, **macro),
        "f1_score": sk.f1_score(y, predicted, **macro),
        "precision_weighted": sk.precision_score(y, predicted, **weighted),
        "recall_weighted": sk.recall_score(y, predicted, **weighted),
        "f1_weighted": sk.f1_score(y, predicted, **weighted),
        "roc_auc": sk.roc_auc_score(y, scores, multi_class="ovr", labels=labels),
        "log_loss": sk.log_loss(y, probabilities, labels=labels),
    }
    assert found == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=2, max_size=50))
def test_regression_metrics_match_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    y, predicted = np.array(pairs).T
    assert regression_metrics(y, predicted) == pytest.approx(
        {
            "rmse": np.sqrt(sk.mean_squared_error(y, predicted)),
            "mae": sk.mean_absolute_error(y, predicted),
            "r2": sk.r2_score(y, predicted),
        }
    )


def test_every_metric_a_gate_may_name_is_computed() -> None:
    y = np.array(["a", "b", "a", "b"])
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
    found = classification_metrics(y, np.array(["a", "b", "a", "a"]), p, ["a", "b"])
    found |= regression_metrics(np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    assert set(found) == set(METRICS)


def test_metrics_of_probabilities_are_omitted_without_them() -> None:
    found = evaluate("classification", np.array([0, 1]), np.array([0, 1]), None, [0, 1])
    assert "roc_auc" not in found.metrics
    assert "log_loss" not in found.metrics


def test_targets_of_one_class_have_no_roc_auc() -> None:
    p = np.array([[0.9, 0.1], [0.4, 0.6]])
    found = classification_metrics(np.array([0, 0]), np.array([0, 1]), p, [0, 1])
    assert "roc_auc" not in found
    assert found["accuracy"] == 0.5


def test_roc_auc_of_several_classes_skips_those_without_rows() -> None:
    y = np.array([0, 0, 1, 1])
    p = np.array([[0.8, 0.1, 0.1], [0.3, 0.5, 0.2], [0.2, 0.7, 0.1], [0.4, 0.5, 0.1]])
    expected = np.mean([sk.roc_auc_score(y == k, p[:, k]) for k in (0, 1)])
    assert roc_auc(y, p, [0, 1, 2]) == pytest.approx(expected)


def test_log_loss_of_certain_errors_is_finite_and_large() -> None:
    found = log_loss(np.array([0]), np.array([[0.0, 1.0]]), [0, 1])
    assert 30 < found < 40


def test_log_loss_tolerates_single_precision() -> None:
    p = np.array([[0.3, 0.7]], dtype=np.float32).astype(np.float64)
    assert log_loss(np.array([1]), p * 1.0001, [0, 1]) == pytest.approx(-np.log(0.7), abs=1e-6)


def test_a_class_the_model_was_not_trained_on_counts_as_missed() -> None:
    y, predicted = np.array(["a", "b", "new"]), np.array(["a", "b", "b"])
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    found = evaluate("classification", y, predicted, p, ["a", "b"])
    assert found.labels == ("a", "b", "new")
    assert found.confusion is not None
    assert found.confusion.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert found.metrics["log_loss"] > 10


@pytest.mark.parametrize("labels", [["no", "yes"], [0, 1], [False, True]])
def test_reports_name_every_class(labels: list[Any]) -> None:
    y = np.array(labels * 5)
    found = evaluate("classification", y, y, np.tile(np.eye(2), (5, 1)), labels)
    assert found.confusion is not None
    assert found.confusion.tolist() == [[5, 0], [0, 5]]
    assert {str(label) for label in labels} <= set(found.report)
    assert all(str(label) in found.report_text for label in labels)


def test_regression_has_no_report() -> None:
    found = evaluate("regression", np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    assert (found.confusion, found.report, found.report_text) == (None, {}, "")
    assert found.metrics["rmse"] == 0


@pytest.mark.parametrize("length", [1, 2])
def test_r2_needs_two_rows(length: int) -> None:
    found = regression_metrics(np.arange(float(length)), np.arange(float(length)))
    assert ("r2" in found) == (length > 1)


def project(metric: str | None) -> Project:
    candidates = [Candidate("a", LogisticRegression)]
    return Project("p", data=dict, target="y", candidates=candidates, gate=Gate(metric=metric))


def test_the_gate_names_the_deciding_metric() -> None:
    assert project("roc_auc").gate.deciding_metric("classification") == "roc_auc"
    assert project(None).gate.deciding_metric("classification") == "f1_score"
    assert project(None).gate.deciding_metric("regression") == "rmse"


@pytest.mark.parametrize(("metric", "task"), [("rmse", "classification"), ("recall", "regression")])
def test_a_metric_of_the_other_task_is_refused(metric: str, task: Any) -> None:
    with pytest.raises(ProjectError, match=f"is not a {task} metric"):
        project(metric).gate.deciding_metric(task)

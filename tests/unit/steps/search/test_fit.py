"""Fitting is reproducible, and the model's warnings are collected."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_iris
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier

from tidemill.steps.search.fit import fit, fix_randomness, predict

X, y = load_iris(return_X_y=True)


class Noisy(ClassifierMixin, BaseEstimator):
    """Warns as often as it is told to, and answers at random from numpy's global generator."""

    def __init__(self, times: int = 1, answer: float = 0.0) -> None:
        self.times = times
        self.answer = answer

    def fit(self, X: Any, y: Any) -> Noisy:
        for _ in range(self.times):
            warnings.warn("not sure", UserWarning, stacklevel=1)
        self.draw_ = np.random.random()
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.answer)


def pipeline(estimator: Any) -> Pipeline:
    return Pipeline([("preprocess", "passthrough"), ("model", estimator)])


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomForestClassifier(5),
        lambda: MLPClassifier((4,), max_iter=5),
        lambda: BaggingClassifier(DecisionTreeClassifier(max_features=1), 3),
    ],
)
def test_the_same_seed_gives_the_same_model(make: Any) -> None:
    answers = [
        predict(fit(pipeline(make()), X, y, seed=7).model, X).probabilities for _ in range(2)
    ]
    np.testing.assert_array_equal(answers[0], answers[1])


def test_a_random_state_of_the_project_is_kept() -> None:
    model = pipeline(RandomForestClassifier(random_state=3))
    fix_randomness(model, 7)
    assert model.get_params()["model__random_state"] == 3


def test_an_unset_random_state_is_set_at_any_depth() -> None:
    model = pipeline(BaggingClassifier(DecisionTreeClassifier()))
    fix_randomness(model, 7)
    assert model.get_params()["model__random_state"] == 7
    assert model.get_params()["model__estimator__random_state"] == 7


def test_global_generators_are_seeded_too() -> None:
    draws = [fit(pipeline(Noisy(0)), X, y, seed=5).model["model"].draw_ for _ in range(2)]
    assert draws[0] == draws[1]


def test_warnings_are_collected_and_counted() -> None:
    fitted = fit(pipeline(Noisy(3)), X, y, seed=0)
    assert fitted.warnings == ("UserWarning: not sure (3 times)",)
    assert fit(pipeline(Noisy(1)), X, y, seed=0).warnings == ("UserWarning: not sure",)


def test_a_convergence_warning_is_collected() -> None:
    fitted = fit(pipeline(LogisticRegression(max_iter=1)), X, y, seed=0)
    assert any("ConvergenceWarning" in text for text in fitted.warnings)


def test_an_error_of_the_model_is_raised() -> None:
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        fit(pipeline(LogisticRegression()), X, y[:5], seed=0)


def test_predictions_include_probabilities_if_there_are_any() -> None:
    found = predict(fit(pipeline(LogisticRegression(max_iter=500)), X, y, seed=0).model, X)
    assert found.values.shape == (150,)
    assert found.probabilities is not None
    assert found.probabilities.shape == (150, 3)
    assert predict(fit(pipeline(Ridge()), X, y, seed=0).model, X).probabilities is None


def test_a_regressor_of_one_column_predicts_one_value_a_row() -> None:
    found = predict(fit(pipeline(Ridge()), X, y.reshape(-1, 1), seed=0).model, X)
    assert found.values.shape == (150,)


@pytest.mark.parametrize("answer", [np.nan, np.inf])
def test_predictions_that_are_not_finite_are_an_error(answer: float) -> None:
    model = fit(pipeline(Noisy(0, answer)), X, y, seed=0).model
    with pytest.raises(ValueError, match="predictions contain NaN or infinite"):
        predict(model, X)

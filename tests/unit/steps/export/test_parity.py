from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tidemill.bundle import Parity
from tidemill.errors import ExportError
from tidemill.signature import Column, Signature, Tensor
from tidemill.steps.export import parity
from tidemill.steps.export.model_io import ModelPredictions
from tidemill.steps.export.parity import (
    ParityCase,
    accepted_rows,
    compare_predictions,
    measure_parity,
    parity_cases,
    within_tolerance,
)

TABLE = Signature(
    "regression",
    "y",
    (
        Column("n", "number", nullable=True),
        Column("i", "integer"),
        Column("b", "boolean"),
        Column("t", "text", categories=("x", "y", "z")),
        Column("free", "text", nullable=True),
    ),
)


def frame(rows: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "n": rng.normal(size=rows),
            "i": rng.integers(0, 9, rows),
            "b": rng.random(rows) < 0.5,
            "t": rng.choice(["x", "y"], rows),
            "free": rng.choice(["some", "words"], rows),
        }
    )


class Remembering:
    """A model that keeps the rows it was asked about."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def predict(self, X: Any) -> Any:
        self.asked.append(X)
        return np.zeros(len(X))


def classes(labels: list[int], likely: Any = None) -> ModelPredictions:
    return ModelPredictions(
        np.array(labels), np.array(labels), None if likely is None else np.array(likely, float)
    )


def test_equal_predictions_pass() -> None:
    same = classes([0, 1], [[0.9, 0.1], [0.2, 0.8]])
    assert within_tolerance(compare_predictions(same, same))


def test_one_different_label_fails() -> None:
    assert not within_tolerance(compare_predictions(classes([0, 1, 1]), classes([0, 1, 0])))


@pytest.mark.parametrize(
    ("exact", "given", "good"),
    [
        (0.5, 0.5 * (1 + 9e-6), True),
        (0.5, 0.5 * (1 + 2e-5), False),
        (1e-6, 1e-6 + 9e-8, True),  # under a hundredth, 1e-7 is allowed
        (1e-6, 1e-6 + 2e-7, False),
        (0.5, float("nan"), False),
    ],
)
def test_probabilities_are_compared_relatively(exact: float, given: float, good: bool) -> None:
    native, compiled = classes([1], [[exact, 1.0]]), classes([1], [[given, 1.0]])
    assert within_tolerance(compare_predictions(native, compiled)) is good


def test_missing_probabilities_fail() -> None:
    assert not within_tolerance(compare_predictions(classes([0], [[0.9, 0.1]]), classes([0])))


@pytest.mark.parametrize(("error", "good"), [(9e-6, True), (2e-5, False)])
def test_values_are_compared_relatively(error: float, good: bool) -> None:
    native = np.array([1000.0, -1000.0, 500.0])
    compiled = native * np.array([1, 1 + error, 1])
    assert (
        within_tolerance(compare_predictions(ModelPredictions(native), ModelPredictions(compiled)))
        is good
    )


def test_values_near_zero_are_compared_relative_to_the_spread() -> None:
    native = np.array([-1000.0, 1e-12, 1000.0])
    compiled = np.array([-1000.0, 1e-9, 1000.0])
    assert within_tolerance(
        compare_predictions(ModelPredictions(native), ModelPredictions(compiled))
    )


def test_rows_without_a_finite_native_prediction_are_left_out() -> None:
    native, compiled = np.array([1.0, np.nan, 2.0]), np.array([1.0, 7.0, 2.0])
    assert within_tolerance(
        compare_predictions(ModelPredictions(native), ModelPredictions(compiled))
    )


def test_the_largest_error_of_all_cases_counts() -> None:
    native = ModelPredictions(np.array([1.0]))
    found = measure_parity(
        [ParityCase(np.zeros(1), native), ParityCase(np.ones(1), native)],
        lambda rows: ModelPredictions(np.array([1.0 + rows[0]])),
    )
    assert found == Parity(2, True, 1.0)


def test_generated_rows_cover_missing_values_ends_categories_and_unknown_texts() -> None:
    model, X = Remembering(), frame()
    parity_cases(model, X, TABLE)
    held, *made_up = model.asked
    pd.testing.assert_frame_equal(held, X)
    together = pd.concat(made_up)
    assert together["n"].isna().any()
    assert together["free"].isna().any()
    assert not together[["i", "b", "t"]].isna().any().any()
    assert {float(X["n"].min()), float(X["n"].max())} <= set(together["n"])
    assert set(together["t"]) == {"x", "y", "z"}
    assert set(together["free"].dropna()) > {"some", "words"}


def test_generated_rows_reach_the_limits_of_the_number_types() -> None:
    rows = frame()
    rows["i"] = np.where(np.arange(len(rows)) % 2, 2**63 - 1, -(2**63) + 5)
    rows["n"] = np.where(np.arange(len(rows)) % 2, 1.7e308, -1.7e308)

    class Model:
        def predict(self, X: pd.DataFrame) -> Any:
            assert X["i"].between(-(2**63) + 5, 2**63 - 1).all()
            return np.isfinite(X["n"].fillna(0)).to_numpy(dtype=float)

    found = parity_cases(Model(), rows, TABLE)
    assert len(found) == 6
    assert all((trial.native.predictions == 1).all() for trial in found)


def test_generated_rows_are_deterministic() -> None:
    one, other = Remembering(), Remembering()
    parity_cases(one, frame(), TABLE)
    parity_cases(other, frame(), TABLE)
    for first, second in zip(one.asked, other.asked, strict=True):
        pd.testing.assert_frame_equal(first, second)


def test_at_most_two_thousand_held_out_rows_are_compared() -> None:
    model = Remembering()
    parity_cases(model, frame(3000), TABLE)
    assert len(model.asked[0]) == parity.MAX_ROWS


def test_generated_rows_that_the_model_refuses_are_left_out() -> None:
    class Refusing(Remembering):
        def predict(self, X: Any) -> Any:
            if X["n"].isna().any():
                raise ValueError("NaN")
            return super().predict(X)

    found = parity_cases(Refusing(), frame(), TABLE)
    assert len(found) >= 3
    assert not any(trial.rows["n"].isna().any() for trial in found)


def test_held_out_rows_that_the_model_refuses_are_an_error() -> None:
    with pytest.raises(ExportError, match="itself fails on held-out rows: AttributeError"):
        parity_cases(object(), frame(), TABLE)


def test_generated_tensors_stay_in_their_range() -> None:
    X = np.random.default_rng(0).uniform(0, 2, (20, 1, 3, 3)).astype(np.float32)
    model = Remembering()
    parity_cases(model, X, Signature("regression", "y", tensor=Tensor("image", (1, 3, 3))))
    assert len(model.asked) == 3
    for rows in model.asked:
        assert rows.shape[1:] == (1, 3, 3)
        assert rows.dtype == np.float32
        assert 0 <= rows.min() <= rows.max() <= 2


def test_rows_that_the_signature_accepts() -> None:
    X = frame(4)
    X.loc[0, "i"] = np.nan
    X.loc[1, "t"] = "w"
    X.loc[2, "n"] = np.nan
    assert accepted_rows(X, TABLE).tolist() == [False, False, True, True]

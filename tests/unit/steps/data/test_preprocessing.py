from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from tidemill.project import Candidate, Project
from tidemill.signature import Tensor
from tidemill.steps.data.preprocessing import build_pipeline, find_scaler, preprocessor

y = np.array([0, 1, 0, 1, 1, 0])


def rows() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age": [20.0, np.nan, 40.0, 30.0, 25.0, 60.0],
            "visits": [1, 2, 3, 4, 5, 6],
            "member": [True, False, True, True, False, True],
            "city": ["Oslo", "Rome", np.nan, "Oslo", "Bern", "Rome"],
        }
    )


def project(**settings: Any) -> Project:
    return Project("p", rows, "y", [Candidate("c", LogisticRegression)], **settings)


def fitted(X: pd.DataFrame) -> Pipeline:
    return build_pipeline(LogisticRegression(), X, project()).fit(X, y)


def test_a_pipeline_has_two_steps_and_is_not_fitted() -> None:
    pipeline = build_pipeline(LogisticRegression(), rows(), project())
    assert [name for name, _ in pipeline.steps] == ["preprocess", "model"]
    assert not hasattr(pipeline, "classes_")


def test_numbers_are_filled_with_the_median_and_scaled() -> None:
    made = preprocessor(rows()[["age"]]).fit_transform(rows()[["age"]])
    filled = np.array([20.0, 30.0, 40.0, 30.0, 25.0, 60.0])
    np.testing.assert_allclose(made.ravel(), (filled - filled.mean()) / filled.std())


def test_booleans_become_zero_and_one_and_missing_ones_the_more_frequent() -> None:
    flags = pd.DataFrame({"member": pd.array([True, None, True, False], dtype="boolean")})
    assert preprocessor(flags).fit_transform(flags).ravel().tolist() == [1.0, 1.0, 1.0, 0.0]
    plain = pd.DataFrame({"member": [True, True, False]})
    assert preprocessor(plain).fit(plain).transform(flags).ravel().tolist() == [1.0, 1.0, 1.0, 0.0]


def test_a_missing_text_is_a_category_and_an_unknown_text_is_none() -> None:
    made = preprocessor(rows()[["city"]]).fit(rows()[["city"]])
    assert made.get_feature_names_out().tolist()[-1] == "text__city_missing"
    unknown = made.transform(pd.DataFrame({"city": ["Paris", np.nan]}))
    assert unknown.tolist() == [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    "city",
    [
        pd.Series(["Rome", None, "Oslo"], dtype=object),
        pd.Series(["Rome", pd.NA, "Oslo"], dtype=object),
        pd.Series(["Rome", np.nan, "Oslo"], dtype=object),
        pd.Series(["Rome", None, "Oslo"], dtype="string"),
        pd.Series(["Rome", None, "Oslo"], dtype="category"),
        pd.Series(["Rome", None, "Oslo"]),
    ],
    ids=["None", "NA", "NaN", "string", "category", "inferred"],
)
def test_the_pipeline_accepts_every_marker_of_missing_text(city: pd.Series[Any]) -> None:
    model = fitted(rows())
    X = rows().iloc[:3].assign(city=city)
    expected = model.predict_proba(rows().iloc[:3].assign(city=["Rome", np.nan, "Oslo"]))
    np.testing.assert_array_equal(model.predict_proba(X), expected)


def test_the_pipeline_accepts_a_column_in_which_every_text_is_missing() -> None:
    X = rows().assign(city=np.nan)
    assert len(fitted(rows()).predict(X)) == len(X)


def test_the_pipeline_finds_columns_by_name() -> None:
    model, X = fitted(rows()), rows()
    shuffled = X[["city", "member", "visits", "age"]].assign(extra=1)
    np.testing.assert_array_equal(model.predict_proba(X), model.predict_proba(shuffled))


def test_many_categories_share_one_column() -> None:
    X = pd.DataFrame({"city": [f"city {i % 500}" for i in range(2000)]})
    assert preprocessor(X).fit_transform(X).shape == (2000, 256)


def test_the_scaler_is_found_if_there_is_one() -> None:
    model = fitted(rows())
    scaler = find_scaler(model)
    assert isinstance(scaler, StandardScaler)
    np.testing.assert_allclose(scaler.mean_, [(20 + 30 + 40 + 30 + 25 + 60) / 6, 3.5])
    texts = rows()[["city"]]
    assert find_scaler(fitted(texts)) is None


def test_a_projects_own_preprocessing_is_cloned() -> None:
    own = MinMaxScaler()
    X = rows()[["visits"]]
    pipeline = build_pipeline(LogisticRegression(), X, project(preprocess=own)).fit(X, y)
    assert isinstance(pipeline["preprocess"], MinMaxScaler)
    assert not hasattr(own, "scale_")


def test_none_passes_columns_on_unchanged() -> None:
    X = rows()[["visits"]]
    pipeline = build_pipeline(LogisticRegression(), X, project(preprocess="none"))
    assert pipeline["preprocess"] == "passthrough"
    assert pipeline.fit(X, y).predict(X).shape == (6,)


def test_a_tensor_is_not_preprocessed() -> None:
    X = np.zeros((4, 1, 2, 2), dtype=np.float32)
    pipeline = build_pipeline(LogisticRegression(), X, project(tensor=Tensor("image", (1, 2, 2))))
    assert pipeline["preprocess"] == "passthrough"


def test_the_fitted_pipeline_loads_without_tidemill() -> None:
    assert b"tidemill" not in pickle.dumps(fitted(rows()))

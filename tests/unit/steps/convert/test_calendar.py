"""Calendar features: the fitted pipeline, its ONNX graph and pandas agree on every date."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import Pipeline

from tidemill.errors import ExportError
from tidemill.project import Candidate, Project
from tidemill.signature import Column, Signature
from tidemill.steps.convert.model import convert
from tidemill.steps.data.preprocessing import build_pipeline

#: From 1600-01-01 to 2400-12-31.
SECONDS = st.integers(-11_676_096_000, 13_601_087_999).map(float)
EDGES = [-11_676_096_000.0, -1.0, 0.0, 951_782_399.0, 951_782_400.0, 4_107_542_400.0, np.nan]
SIGNATURE = Signature("regression", "y", (Column("t", "datetime", nullable=True, format="iso"),))


def fitted(estimator: Any) -> tuple[Pipeline, Any]:
    """A pipeline over dates of eight centuries, and its compiled form."""
    random = np.random.default_rng(0)
    t = random.uniform(-11_676_096_000, 13_601_087_999, 600).round()
    X = pd.DataFrame({"t": np.where(random.random(600) < 0.1, np.nan, t)})
    project = Project("p", lambda: X, "y", [Candidate("a", LinearRegression)])
    model = build_pipeline(estimator, X, project, dates=["t"]).fit(X, random.normal(size=600))
    session = onnxruntime.InferenceSession(convert(model, SIGNATURE).model.SerializeToString())
    return model, session


linear = functools.cache(lambda: fitted(LinearRegression()))
trees = functools.cache(lambda: fitted(HistGradientBoostingRegressor(max_iter=30)))


def features(model: Pipeline, X: pd.DataFrame) -> pd.DataFrame:
    """The features before they are scaled, by name."""
    time = model.named_steps["preprocess"].named_transformers_["time"]
    names = time[:-1].get_feature_names_out()
    return pd.DataFrame(time[:-1].transform(X), columns=[n.split("__")[0] for n in names])


@settings(deadline=None)
@given(st.lists(SECONDS | st.none().map(lambda _: np.nan), min_size=1, max_size=20))
def test_pipeline_and_graph_agree(seconds: list[float]) -> None:
    X = pd.DataFrame({"t": [*seconds, *EDGES]})
    for model, session in (linear(), trees()):
        (found,) = session.run(None, {"numbers": X.to_numpy()})
        np.testing.assert_allclose(found, model.predict(X), rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(st.lists(SECONDS, min_size=1, max_size=20))
def test_features_are_those_of_pandas(seconds: list[float]) -> None:
    X = pd.DataFrame({"t": seconds})
    made = features(linear()[0], X)
    moments = pd.Series(np.array(seconds).astype("datetime64[s]")).dt
    assert made["elapsed"].tolist() == seconds
    assert (made["year"] + 1970).tolist() == moments.year.tolist()
    assert (made["month"] + 1).tolist() == moments.month.tolist()
    assert made["weekday"].tolist() == moments.day_of_week.tolist()
    hours = moments.hour + (moments.minute * 60 + moments.second) / 3600
    np.testing.assert_allclose(made["hour"], hours, rtol=1e-14)
    np.testing.assert_allclose(made["hour_sin"], np.sin(hours * np.pi / 12), atol=1e-6)
    np.testing.assert_allclose(
        made["weekday_cos"], np.cos(made["weekday"] * np.pi / 3.5), atol=1e-6
    )


def test_dates_alone_have_no_hour_and_missing_ones_are_marked() -> None:
    X = pd.DataFrame({"day": [0.0, 86_400.0, 172_800.0], "gap": [0.0, np.nan, 86_400.0]})
    project = Project("p", lambda: X, "y", [Candidate("a", LinearRegression)])
    model = build_pipeline(LinearRegression(), X, project, dates=["day", "gap"])
    names = model.fit(X, [1.0, 2.0, 3.0])[:-1].get_feature_names_out().tolist()
    assert not any("hour" in name for name in names)
    assert names[-1] == "missing__gap"
    assert not any(name.startswith("missing") and "day" in name for name in names)


@pytest.mark.parametrize("unit", ["datetime64[ns]", "datetime64[W]", "float32"])
def test_other_casts_are_refused(unit: str) -> None:
    from operator import methodcaller

    from sklearn.preprocessing import FunctionTransformer

    X = np.zeros((3, 1))
    steps = [("cast", FunctionTransformer(methodcaller("astype", unit)))]
    model = Pipeline([*steps, ("model", LinearRegression())])
    model.named_steps["model"].fit(X, X.ravel())
    with pytest.raises(ExportError, match="no compiled form"):
        convert(model, SIGNATURE)

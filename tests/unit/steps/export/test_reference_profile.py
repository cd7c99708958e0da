from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from tidemill.signature import Column, Signature, Tensor
from tidemill.steps.drift.check import check_drift
from tidemill.steps.drift.histogram import CategoryHistogram, NumericHistogram, read_histogram
from tidemill.steps.export.model_io import ModelPredictions
from tidemill.steps.export.reference_profile import columns_of, make_profile, tensor_summaries

TABLE = Signature(
    "classification",
    "y",
    (
        Column("n", "number", nullable=True),
        Column("i", "integer"),
        Column("b", "boolean", nullable=True),
        Column("t", "text", nullable=True),
    ),
    labels=("no", "yes"),
)


def frame(rows: int = 400, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(
        {
            "n": rng.normal(size=rows),
            "i": rng.integers(0, 2**50, rows),
            "b": rng.choice([0.0, 1.0, np.nan], rows),
            "t": rng.choice(np.array(["x", "y", None], object), rows),
        }
    )
    X.loc[rng.random(rows) < 0.2, "n"] = np.nan
    return X


def answered(rows: int = 100) -> ModelPredictions:
    likely = np.random.default_rng(1).dirichlet([1, 1], rows)
    labels = likely.argmax(axis=1)
    return ModelPredictions(np.array(["no", "yes"])[labels], labels, likely)


def made(X: pd.DataFrame, **settings: Any) -> dict[str, Any]:
    """A profile as it comes back from the disk."""
    found = make_profile(X, TABLE, answered(), **settings)
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(found))
    return decoded


def test_every_column_has_its_sketch_of_all_rows() -> None:
    X = frame()
    profile = made(X)
    assert (profile["format"], profile["rows"]) == (1, 400)
    sketches = {name: read_histogram(entry) for name, entry in profile["columns"].items()}
    kinds = [type(sketch) for sketch in sketches.values()]
    assert kinds == [NumericHistogram, NumericHistogram, CategoryHistogram, CategoryHistogram]
    for name, sketch in sketches.items():
        assert sketch.missing == X[name].isna().sum()
        assert sketch.rows + sketch.missing == 400
    assert [entry["kind"] for entry in profile["columns"].values()] == [
        "number", "integer", "boolean", "text",
    ]  # fmt: skip


def test_the_sample_holds_the_same_rows_of_every_column() -> None:
    X = frame(3000)
    columns = made(X)["columns"]
    sample = pd.DataFrame({name: entry["sample"] for name, entry in columns.items()})
    assert len(sample) == 1000
    keyed = X.set_index("i")
    for row in sample.itertuples():
        original = keyed.loc[row.i]
        assert pd.isna(row.t) == pd.isna(original["t"])
        assert row.n == pytest.approx(original["n"], rel=1e-6, nan_ok=True)


def test_a_hundred_columns_stay_under_a_megabyte() -> None:
    rng = np.random.default_rng(0)
    rows = 5000
    X = pd.DataFrame({f"feature number {i}": rng.normal(size=rows) * 1e3 for i in range(80)})
    for i in range(20):
        X[f"text {i}"] = [f"a rather long text with number {n}" for n in rng.integers(0, 900, rows)]
    kinds = [Column(str(c), "number" if str(c)[0] == "f" else "text") for c in X.columns]
    signature = Signature("classification", "y", tuple(kinds), labels=("no", "yes"))
    profile = make_profile(X, signature, answered())
    assert len(msgspec.json.encode(profile)) < 2**20


def test_long_texts_do_not_fill_the_profile() -> None:
    X = pd.DataFrame({"t": [f"{i} " + "word " * 2000 for i in range(300)]})
    signature = Signature("regression", "y", (Column("t", "text"),))
    profile = make_profile(X, signature, ModelPredictions(np.zeros(3)))
    assert len(msgspec.json.encode(profile)) < 60_000
    assert read_histogram(profile["columns"]["t"]).rows == 300


def test_output_confidence_and_holdout_are_those_of_held_out_rows() -> None:
    answers = answered()
    profile = made(frame(), y_test=answers.predictions)
    assert read_histogram(profile["output"]).rows == 100
    assert set(profile["output"]["counts"]) == {"no", "yes"}
    assert answers.probabilities is not None
    confident = answers.probabilities.max(axis=1)
    assert profile["confidence"]["minimum"] == pytest.approx(confident.min())
    assert profile["holdout"]["rows"] == 100
    assert profile["holdout"]["metrics"]["accuracy"]["value"] == 1.0
    assert made(frame())["holdout"] is None


def test_a_regressions_output_is_numeric_and_has_no_confidence() -> None:
    signature = Signature("regression", "y", (Column("n", "number"),))
    values = np.random.default_rng(0).normal(size=50)
    profile = make_profile(
        frame()[["n"]].dropna(), signature, ModelPredictions(values), y_test=values
    )
    assert profile["confidence"] is None
    assert profile["output"]["mean"] == pytest.approx(values.mean())
    assert profile["holdout"]["metrics"]["rmse"]["value"] == 0.0


def test_a_tensor_is_profiled_by_three_summaries_a_row() -> None:
    image = Tensor("image", (1, 2, 2))
    X = np.array([[[[0, 1], [2, 3]]], [[[0, 0], [0, 4]]]], dtype=np.float32)
    summaries = tensor_summaries(X, image)
    assert summaries["image:mean"].tolist() == [1.5, 1.0]
    assert summaries["image:zeros"].tolist() == [0.25, 0.75]
    assert summaries["image:std"][1] == pytest.approx(np.sqrt(3))
    np.testing.assert_equal(tensor_summaries(X.reshape(2, 4), image), summaries)
    signature = Signature("classification", "y", tensor=image, labels=("no", "yes"))
    profile = make_profile(X, signature, answered())
    assert list(profile["columns"]) == ["image:mean", "image:std", "image:zeros"]
    assert columns_of(X, signature).keys() == profile["columns"].keys()


def test_the_drift_check_reads_the_profile() -> None:
    X = frame(3000)
    profile = made(X)
    calm = check_drift(profile, frame(500, seed=9))
    assert not calm.moved
    moved = check_drift(profile, frame(500, seed=9).assign(n=lambda f: f["n"] + 1))
    assert moved.drifted == ("n",)

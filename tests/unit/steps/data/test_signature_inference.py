from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import DataError
from tidemill.project import Candidate, Project
from tidemill.signature import Column, Signature, Tensor
from tidemill.steps.data.signature_inference import (
    MAX_CATEGORIES,
    conform,
    infer_signature,
)


def project(**settings: Any) -> Project:
    return Project("p", pd.DataFrame, "y", [Candidate("c", object)], **settings)


def infer(X: pd.DataFrame, y: Any = (0, 1), **settings: Any) -> Signature:
    return infer_signature(X, np.array(y), "classification", project(**settings))


def column(values: Any, **settings: Any) -> Column:
    return infer(pd.DataFrame({"x": values}), **settings).columns[0]


def test_kinds_come_from_types() -> None:
    assert column([1.5, 2.0]) == Column("x", "number")
    assert column([1, 2]) == Column("x", "integer")
    assert column([True, False]) == Column("x", "boolean")
    assert column(["b", "a"]) == Column("x", "text", categories=("a", "b"))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.5, np.nan], "number"),
        (pd.array([1, None], dtype="Int64"), "integer"),
        (pd.array([True, None], dtype="boolean"), "boolean"),
        (pd.Series([True, None], dtype=object), "boolean"),
        (["a", None], "text"),
    ],
)
def test_columns_with_missing_training_values_are_nullable(values: Any, kind: str) -> None:
    found = column(values)
    assert (found.kind, found.nullable) == (kind, True)


def test_a_kind_that_the_type_does_not_show_is_passed() -> None:
    X = pd.DataFrame({"x": [1.0, np.nan, 0.0]})
    told = infer_signature(X, np.array([0, 1, 0]), "classification", project(), {"x": "boolean"})
    assert told.columns[0] == Column("x", "boolean", nullable=True)


def test_categories_are_omitted_if_unknown_ones_are_accepted_or_too_many() -> None:
    assert column(["b", "a"], unknown_categories="accept").categories is None
    assert column([f"t{i}" for i in range(MAX_CATEGORIES)]).categories is not None
    assert column([f"t{i}" for i in range(MAX_CATEGORIES + 1)]).categories is None


def test_dates_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="'x' contains datetime64"):
        column(pd.to_datetime(["2020-01-01", "2020-01-02"]))


@pytest.mark.parametrize(
    ("y", "labels"),
    [
        (["no", "yes", "no"], ("no", "yes")),
        ([3, 1, 2], (1, 2, 3)),
        ([True, False, True], (False, True)),
        (np.array([2.0, 0.5, 2.0]), (0.5, 2.0)),
    ],
)
def test_labels_are_plain_scalars_in_order(y: Any, labels: tuple[Any, ...]) -> None:
    found = infer(pd.DataFrame({"x": [1.0] * len(y)}), y).labels
    assert found == labels
    assert [type(label) for label in found] == [type(label) for label in labels]


def test_a_tensor_and_a_regression() -> None:
    X = np.zeros((3, 1, 4, 4), dtype=np.float32)
    image = Tensor("image", (1, 4, 4))
    signature = infer_signature(X, np.zeros(3), "regression", project(tensor=image))
    assert (signature.tensor, signature.labels, signature.columns) == (image, (), ())


names = st.text(min_size=1, max_size=20)
labels = st.lists(st.text(), min_size=1, unique=True).map(tuple)
kinds = st.sampled_from(["number", "integer", "boolean", "text"])
categories = st.none() | st.lists(st.text(), min_size=1, unique=True).map(tuple)
columns = st.lists(
    st.builds(Column, name=names, kind=kinds, nullable=st.booleans(), categories=categories),
    min_size=1,
    unique_by=lambda c: c.name,
).map(tuple)
tensors = st.builds(Tensor, names, st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple))
tables = st.builds(Signature, st.just("classification"), names, columns, labels=labels)
networks = st.builds(Signature, st.just("regression"), names, tensor=tensors)


@given(tables | networks)
def test_a_signature_survives_json(signature: Signature) -> None:
    written = msgspec.json.encode(signature)
    assert msgspec.json.decode(written, type=Signature) == signature


SIGNATURE = Signature(
    "regression",
    "y",
    columns=(
        Column("n", "number", nullable=True),
        Column("i", "integer"),
        Column("b", "boolean", nullable=True),
        Column("t", "text", nullable=True),
    ),
)


def test_a_frame_conforms_to_the_signature_and_keeps_its_index() -> None:
    given_frame = pd.DataFrame(
        {
            "t": pd.array(["a", None], dtype="string"),
            "b": pd.array([True, None], dtype="boolean"),
            "i": [1.0, 2.0],
            "n": pd.array([1, None], dtype="Int64"),
            "extra": [0, 0],
        },
        index=[7, 9],
    )
    frame = conform(given_frame, SIGNATURE)
    assert frame.index.tolist() == [7, 9]
    assert list(frame.columns) == ["n", "i", "b", "t"]
    assert frame.dtypes.astype(str).tolist() == ["float64", "int64", "float64", "object"]
    assert frame.isna().sum().tolist() == [1, 0, 1, 1]

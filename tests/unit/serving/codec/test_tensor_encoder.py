"""Checked rows are encoded as arrays; values that do not fit into the model are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.bundle import ModelInput
from tidemill.errors import InputError
from tidemill.serving.codec.tensor_encoder import TensorEncoder
from tidemill.serving.codec.values import coerce
from tidemill.signature import Column, Signature, Tensor

MIXED = Signature(
    "regression",
    "y",
    (
        Column("a", "number"),
        Column("t", "text", nullable=True),
        Column("i", "integer", nullable=True),
        Column("b", "boolean"),
    ),
)
MIXED_INPUTS = (
    ModelInput("numbers", "float32", ("i", "a", "b")),
    ModelInput("texts", "string", ("t",), missing="?"),
)
ROWS: list[Any] = [[1.5, "x", 3, True], [2.5, None, None, False]]


def flat(
    dtype: str, names: str = "ab", kind: str = "number", *, nullable: bool = False
) -> TensorEncoder:
    columns = tuple(Column(name, kind, nullable) for name in names)  # type: ignore[arg-type]
    signature = Signature("regression", "y", columns)
    return TensorEncoder(signature, [ModelInput("X", dtype, tuple(names))])  # type: ignore[arg-type]


def test_mixed_rows_fill_each_input_in_its_own_order() -> None:
    encoder = TensorEncoder(MIXED, MIXED_INPUTS)
    assert not encoder.flat
    rows = encoder.encode(ROWS)
    numbers, texts = rows.arrays
    assert numbers.dtype == np.float32
    np.testing.assert_array_equal(numbers, [[3, 1.5, 1], [np.nan, 2.5, 0]])
    assert texts.tolist() == [["x"], ["?"]]
    assert encoder.journal_features(rows) == (ROWS, "values")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_written_to_the_buffer_equals_the_encoded_row(dtype: str) -> None:
    encoder = flat(dtype, nullable=True)
    buffer = encoder.new_buffer(3)
    view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
    rows: list[Any] = [[1.25, -2.5], [None, 3.0], [0.1, None]]
    for i, row in enumerate(rows):
        encoder.write_row(row, view, i * buffer.itemsize * 2)
    np.testing.assert_array_equal(buffer, encoder.encode(rows).arrays[0])
    stored, encoding = encoder.journal_features(encoder.encode(rows))
    assert encoding == {"float32": "f4", "float64": "f8"}[dtype]
    assert stored == buffer.tobytes()


def test_whole_numbers_keep_every_digit() -> None:
    encoder = flat("int64", "i", "integer")
    assert encoder.encode([[2**62 + 1]]).arrays[0].tolist() == [[2**62 + 1]]
    assert encoder.journal_features(encoder.encode([[3]])) == (np.float64(3).tobytes(), "f8")


@pytest.mark.parametrize("value", [1e39, -1e39, 3.5e38, 10.0**300])
def test_a_number_beyond_single_precision_is_refused_by_name(value: float) -> None:
    encoder = flat("float32")
    view = memoryview(encoder.new_buffer(1)).cast("B")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'b' does not fit") as caught:
        encoder.write_row([1.0, value], view, 0)
    assert caught.value.field == "b"
    with pytest.raises(InputError, match="'b' does not fit"):
        encoder.encode([[1.0, 2.0], [1.0, value]])
    with pytest.raises(InputError, match="'a' does not fit"):
        TensorEncoder(MIXED, MIXED_INPUTS).encode([[value, "x", 1, True]])


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_that_rounds_to_a_finite_float32_is_accepted(value: float) -> None:
    encoder = flat("float32", "a")
    view = memoryview(encoder.new_buffer(1)).cast("B")  # type: ignore[arg-type]
    with np.errstate(over="ignore"):
        fits = bool(np.isfinite(np.float32(value)))
    for write in (lambda: encoder.write_row([value], view, 0), lambda: encoder.encode([[value]])):
        if fits:
            write()
        else:
            with pytest.raises(InputError):
                write()


def test_finite_numbers_whose_sum_overflows_are_accepted() -> None:
    encoder = flat("float32")
    assert encoder.encode([[3e38, 3e38], [3e38, 3e38]]).count == 2


def test_numeric_columns_are_checked_as_arrays() -> None:
    encoder = flat("float32")
    rows = encoder.encode_columns({"a": np.array([1.0, 2.0]), "b": [3, 4.0]})
    assert rows.arrays[0].tolist() == [[1, 3], [2, 4]]
    for bad, words in ((np.nan, "is missing"), (np.inf, "is infinite"), (1e39, "does not fit")):
        with pytest.raises(InputError, match=words) as caught:
            encoder.encode_columns({"a": np.array([1.0, 2.0]), "b": np.array([3.0, bad])})
        assert caught.value.field == "b"
    nullable = flat("float32", nullable=True)
    found = nullable.encode_columns({"a": np.array([np.nan]), "b": [None]}).arrays[0]
    assert np.isnan(found).all()


def test_mixed_columns_become_the_same_arrays_as_rows() -> None:
    encoder = TensorEncoder(MIXED, MIXED_INPUTS)
    columns = {
        "a": np.array([1.5, 2.5]),
        "t": ["x", None],
        "i": np.array([3.0, np.nan]),
        "b": np.array([True, False]),
    }
    rows = encoder.encode_columns(columns)
    for found, wanted in zip(rows.arrays, encoder.encode(ROWS).arrays, strict=True):
        np.testing.assert_array_equal(found, wanted)
    with pytest.raises(InputError, match="Row 1: 't' is 3"):
        encoder.encode_columns({**columns, "t": ["x", 3]})


def test_tensors_are_accepted_flat_or_shaped() -> None:
    signature = Signature("regression", "y", tensor=Tensor("x", (2, 3)))
    encoder = TensorEncoder(signature, [ModelInput("x", "float32")])
    values = np.arange(12.0)
    for shape in ((2, 6), (2, 2, 3)):
        rows = encoder.encode_tensor(values.reshape(shape))
        assert rows.arrays[0].shape == (2, 2, 3)
        assert rows.count == 2
    for shape in ((12,), (3, 4), (2, 3, 2), (0, 6)):
        with pytest.raises(InputError, match="has the shape"):
            encoder.encode_tensor(np.zeros(shape))
    for bad in (np.nan, np.inf, 1e39):
        with pytest.raises(InputError, match="not finite"):
            encoder.encode_tensor(np.full((1, 6), bad))


def test_different_rows_have_different_cache_keys() -> None:
    encoder = TensorEncoder(MIXED, MIXED_INPUTS)
    keys = {
        encoder.encode([row]).cache_key()
        for row in (*ROWS, [1.5, "y", 3, True], [1.5, "x", 3, False])
    }
    assert len(keys) == 4
    assert (
        flat("float32").encode([[1.0, 2.0]]).cache_key()
        != flat("float32").encode([[2.0, 1.0]]).cache_key()
    )


odd = st.sampled_from([None, float("nan"), float("inf"), 1e39, 10**400, True, "1", 2**60])


@given(
    st.lists(st.floats(-9, 9) | st.integers(-9, 9) | odd, min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from(["float32", "float64"]),
)
def test_a_numeric_column_is_accepted_if_each_value_is(
    values: list[Any], nullable: bool, dtype: str
) -> None:
    encoder = flat(dtype, "a", nullable=nullable)
    column = encoder.signature.columns[0]
    try:
        wanted: Any = [[coerce(column, value)] for value in values]
        wanted = encoder.encode(wanted).arrays[0]
    except InputError:
        wanted = None
    try:
        found: Any = encoder.encode_columns({"a": values}).arrays[0]
    except InputError:
        found = None
    assert (found is None) == (wanted is None)
    if found is not None:
        np.testing.assert_array_equal(found, wanted)


@given(st.lists(st.sampled_from(["x", "y", "z", None, 1, True]), min_size=1, max_size=5))
def test_a_string_column_is_accepted_if_each_value_is(values: list[Any]) -> None:
    for nullable in (True, False):
        for categories in (None, ("x", "y")):
            column = Column("a", "text", nullable, categories)
            encoder = TensorEncoder(
                Signature("regression", "y", (column,)), [ModelInput("X", "string", ("a",), "?")]
            )
            try:
                wanted: Any = [coerce(column, value) for value in values]
            except InputError:
                with pytest.raises(InputError):
                    encoder.encode_columns({"a": values})
            else:
                found = encoder.encode_columns({"a": values}).arrays[0]
                assert found.ravel().tolist() == ["?" if v is None else v for v in wanted]


def test_a_matrix_of_finite_numbers_is_encoded_unchanged() -> None:
    encoder = flat("float32")
    for usual in (np.array([[1, 2], [3, 4]]), np.array([[1.5, 2], [3, 4]], np.float16).copy()):
        rows = encoder.encode_matrix(usual)
        assert rows is not None
        np.testing.assert_array_equal(rows.arrays[0], usual.astype(np.float32))
    for odd_one in (np.nan, np.inf, 1e39):
        assert encoder.encode_matrix(np.array([[1.0, odd_one]])) is None
    assert encoder.encode_matrix(np.empty((0, 2))) is None
    assert flat("float32", kind="integer").encode_matrix(np.array([[1.0, 2.0]])) is None

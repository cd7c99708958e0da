"""The fast decoder agrees with the general parser wherever it returns rows."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import InputError
from tidemill.serving.codec.request_parsing import read_rows
from tidemill.serving.codec.row_decoder import RowDecoder
from tidemill.serving.codec.values import coerce
from tidemill.signature import Column, Signature, Tensor

NAMES = st.text(min_size=1, max_size=6)


@st.composite
def columns(draw: st.DrawFn) -> Column:
    kind = draw(st.sampled_from(("number", "integer", "boolean", "text")))
    categories = None
    if kind == "text" and draw(st.booleans()):
        categories = tuple(draw(st.lists(st.text(max_size=4), min_size=1, max_size=3, unique=True)))
    return Column(draw(NAMES), kind, draw(st.booleans()), categories)


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    if draw(st.integers(0, 3)) == 0:
        shape = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
        name = draw(st.sampled_from(("image", "features", "instances")) | NAMES)
        return Signature("regression", "y", tensor=Tensor(name, shape))
    listed = draw(st.lists(columns(), min_size=1, max_size=5, unique_by=lambda c: c.name))
    if draw(st.integers(0, 5)) == 0:
        listed[0] = Column(draw(st.sampled_from(("features", "instances"))), listed[0].kind)
        listed = list({c.name: c for c in listed}.values())
    return Signature("regression", "y", tuple(listed))


def value_for(draw: st.DrawFn, column: Column) -> Any:
    wrong = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    right = {
        "number": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9),
        "integer": st.integers(-(2**63), 2**63 - 1) | st.sampled_from((3.0, -0.0, 2.5)),
        "boolean": st.booleans(),
        "text": st.sampled_from(column.categories) if column.categories else st.text(),
    }[column.kind]
    if column.nullable:
        right = right | st.none()
    return draw(wrong if draw(st.integers(0, 9)) == 0 else right)


@st.composite
def a_row(draw: st.DrawFn, signature: Signature) -> Any:
    if signature.tensor is not None:
        row: Any = draw(
            st.lists(
                st.floats(-1e9, 1e9) | st.integers(-5, 5),
                min_size=signature.tensor.size,
                max_size=signature.tensor.size,
            )
        )
        return draw(st.sampled_from((row, {signature.tensor.name: row}, {"features": row})))
    values = [value_for(draw, column) for column in signature.columns]
    named = dict(zip(signature.names, values, strict=True))
    return draw(st.sampled_from((values, named, {"features": values}, {"features": named})))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Signature, bytes]:
    signature = draw(signatures())
    if draw(st.booleans()):
        body = {"instances": draw(st.lists(a_row(signature), max_size=3))}
    else:
        body = draw(a_row(signature))
    return signature, json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "replace")


def same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other) or (one == other and not isinstance(one, bool))


@given(cases())
def test_both_decoders_read_the_same(case: tuple[Signature, bytes]) -> None:
    signature, body = case
    decoder = RowDecoder(signature)
    one, many = decoder.one(body), decoder.many(body)
    assert one is None or many is None
    if one is None and many is None:
        return
    rows, is_many = read_rows(signature, body)
    assert is_many == (many is not None)
    found = many if many is not None else [one]
    for row, wanted in zip(found, rows, strict=True):
        assert all(map(same, row, wanted)), (row, wanted)


@given(cases())
def test_decoded_values_are_those_that_the_columns_accept(case: tuple[Signature, bytes]) -> None:
    signature, body = case
    try:
        rows, _ = read_rows(signature, body)
    except InputError:
        return
    for row in rows:
        if signature.tensor is not None:
            assert len(row) == signature.tensor.size
            assert all(isinstance(v, float) and math.isfinite(v) for v in row)
            continue
        for column, value in zip(signature.columns, row, strict=True):
            assert same(coerce(column, value), value)


def table(*given: Column) -> Signature:
    return Signature("regression", "y", given)


@pytest.mark.parametrize(
    "body",
    [
        '{"features":[1.5,2,null]}',
        '{"features":{"a":1.5,"b":2,"c":null}}',
        '{"c":null,"b":2,"a":1.5}',
    ],
)
def test_the_common_forms_use_the_fast_decoder(body: str) -> None:
    signature = table(Column("a", "number"), Column("b", "integer"), Column("c", "text", True))
    assert RowDecoder(signature).one(body.encode()) == (1.5, 2, None)


def test_a_column_called_features_is_a_column() -> None:
    signature = table(Column("features", "number"), Column("b", "number"))
    assert read_rows(signature, b'{"features": 1, "b": 2}') == ([[1.0, 2.0]], False)
    assert read_rows(signature, b'{"features": [1, 2]}') == ([[1.0, 2.0]], False)
    assert read_rows(signature, b'{"features": {"features": 1, "b": 2}}') == ([[1.0, 2.0]], False)


def test_a_column_called_instances_is_a_column() -> None:
    signature = table(Column("instances", "number"))
    assert read_rows(signature, b'{"instances": 1}') == ([[1.0]], False)
    assert read_rows(signature, b'{"instances": [[1], {"instances": 2}]}') == ([[1.0], [2.0]], True)
    with pytest.raises(InputError, match="'instances' is missing"):
        read_rows(signature, b'{"instances": null}')


def test_column_names_without_a_generated_decoder_are_parsed() -> None:
    signature = table(Column('a "quoted" \\ name\n', "number"), Column("ü", "text"))
    body = json.dumps({'a "quoted" \\ name\n': 1, "ü": "é"}).encode()
    assert RowDecoder(signature).one(body) is None
    assert read_rows(signature, body) == ([[1.0, "é"]], False)


def test_a_long_list_of_missing_names_is_shortened() -> None:
    signature = table(*(Column(f"c{i}", "number") for i in range(500)))
    with pytest.raises(InputError, match="'c9' and 490 more") as caught:
        read_rows(signature, b"{}")
    assert len(str(caught.value)) < 1000


@st.composite
def splits(draw: st.DrawFn) -> tuple[Signature, list[str], list[Any]]:
    signature = table(
        *draw(st.lists(columns(), min_size=1, max_size=4, unique_by=lambda c: c.name))
    )
    rows = [
        [value_for(draw, column) for column in signature.columns]
        for _ in range(draw(st.integers(0, 3)))
    ]
    if rows and draw(st.integers(0, 4)) == 0:
        rows[-1] = rows[-1][1:]
    names = draw(st.sampled_from((list(signature.names), list(signature.names[::-1]))))
    return signature, names, rows


@given(splits())
def test_a_split_table_decodes_to_the_same_rows_as_row_by_row(
    case: tuple[Signature, list[str], list[Any]],
) -> None:
    signature, names, rows = case
    body = {"dataframe_split": {"columns": names, "index": [0], "data": rows}}
    found = RowDecoder(signature).split(json.dumps(body).encode("utf-8", "replace"))
    if found is None:
        return
    assert names == list(signature.names)
    again = json.dumps({"instances": rows}).encode("utf-8", "replace")
    wanted, _ = read_rows(signature, again)
    for row, right in zip(found, wanted, strict=True):
        assert all(map(same, row, right)), (row, right)


def test_a_common_split_table_uses_the_fast_decoder() -> None:
    signature = table(Column("a", "number"), Column("b", "text", True))
    for names in ('"columns":["a","b"],', ""):
        body = f'{{"dataframe_split":{{{names}"data":[[1,"x"],[2.5,null]]}}}}'
        assert RowDecoder(signature).split(body.encode()) == [(1.0, "x"), (2.5, None)]
    for body in ('{"dataframe_split":{"data":[]}}', '{"dataframe_split":{"data":[[1]]}}', "{}", ""):
        assert RowDecoder(signature).split(body.encode()) is None

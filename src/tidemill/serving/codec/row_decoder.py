"""Parses the common forms of a body fast, with decoders generated from the signature.

A decoder returns the same rows as `tidemill.serving.codec.request_parsing`, or None. After None,
`request_parsing` parses the body again and either explains what is wrong with it or accepts a rare
form (3.0 for a whole number, a nested tensor, a column called "features"). So a decoder never
rejects a request itself. See decision 032.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from tidemill.errors import InputError
from tidemill.serving.codec.request_parsing import FEATURES, INSTANCES, Row
from tidemill.signature import Column, Signature, check_value

UNRENAMEABLE = set('"\\') | {chr(i) for i in range(32)}
INT64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Decode = Callable[[bytes], Any]


class RowDecoder:
    """Decodes bodies of one signature."""

    def __init__(self, signature: Signature) -> None:
        self._size = signature.tensor.size if signature.tensor else len(signature.columns)
        one = _tensor_types(signature) if signature.tensor else _table_types(signature)
        self._wrapped, self._named, self._many = (_decoder(t) for t in one)
        self._names = list(signature.names)
        self._split = _decoder(None if signature.tensor else _split_type(signature))
        self._dates = [(i, c) for i, c in enumerate(signature.columns) if c.kind == "datetime"]

    def one(self, body: bytes) -> Row | None:
        """The single row of a body; None to leave it to `request_parsing`."""
        try:
            if b'"features"' in body[:24]:
                row = self._wrapped(body).features
            else:
                row = self._named(body)
            return self._values(row)
        except (msgspec.DecodeError, ValueError, RecursionError, InputError):
            return None

    def many(self, body: bytes) -> list[Row] | None:
        """The rows under `instances`; None to leave them to `request_parsing`."""
        try:
            rows = [self._values(row) for row in self._many(body).instances]
        except (msgspec.DecodeError, ValueError, RecursionError, InputError):
            return None
        if not rows or None in rows:
            return None
        return rows  # type: ignore[return-value]

    def split(self, body: bytes) -> list[Row] | None:
        """The rows under `dataframe_split`, as pandas writes them, if the columns are those of the
        signature in the same order; None to leave them to the general parser."""
        try:
            table = self._split(body).dataframe_split
            rows: list[Row] = table.data
            fits = table.columns in (None, self._names) and all(len(r) == self._size for r in rows)
            if not rows or not fits:
                return None
            return [self._in_seconds(row) for row in rows] if self._dates else rows
        except (msgspec.DecodeError, ValueError, RecursionError, InputError):
            return None

    def _values(self, row: Any) -> Row | None:
        if not isinstance(row, list | tuple):
            row = msgspec.structs.astuple(row)
            if isinstance(row[0], list):
                row = row[0]
        if len(row) != self._size:
            return None
        return self._in_seconds(row) if self._dates else row

    def _in_seconds(self, row: Row) -> Row:
        """The row with its datetimes converted; raises InputError if one cannot be."""
        values = list(row)
        for place, column in self._dates:
            values[place] = check_value(column, values[place])
        return values


def _decoder(kind: Any) -> Decode:
    if kind is None:
        return _refuse
    decode: Decode = msgspec.json.Decoder(kind).decode
    return decode


def _refuse(body: bytes) -> Any:
    raise ValueError("this signature has no generated decoder")


def _table_types(signature: Signature) -> tuple[Any, Any, Any]:
    names = [column.name for column in signature.columns]
    if {FEATURES, INSTANCES} & set(names) or any(set(n) & UNRENAMEABLE for n in names):
        return None, None, None
    kinds = [_type(column) for column in signature.columns]
    fields = [f"f{i}" for i in range(len(names))]
    named: Any = msgspec.defstruct(
        "Named",
        list(zip(fields, kinds, strict=True)),
        rename=dict(zip(fields, names, strict=True)),
        forbid_unknown_fields=True,
        gc=False,
    )
    row = _listed_type(signature) | named
    many = list[row]  # type: ignore[valid-type]
    return _wrapper(FEATURES, row), named, _wrapper(INSTANCES, many)


def _listed_type(signature: Signature) -> Any:
    """The type of a table's row as a list. For plain numbers alone it does not fix the length,
    because that decodes faster."""
    kinds = [_type(column) for column in signature.columns]
    return list[float] if set(kinds) == {float} else tuple.__class_getitem__(tuple(kinds))


def _tensor_types(signature: Signature) -> tuple[Any, Any, Any]:
    assert signature.tensor is not None
    name = signature.tensor.name
    if set(name) & UNRENAMEABLE or name in (FEATURES, INSTANCES):
        return None, None, None
    named: Any = _wrapper(name, list[float])
    return (
        _wrapper(FEATURES, list[float]),
        named,
        _wrapper(INSTANCES, list[list[float] | named]),
    )


def _split_type(signature: Signature) -> Any:
    rows: Any = list[_listed_type(signature)]  # type: ignore[misc]
    names: Any = list[str] | None
    fields: list[Any] = [("data", rows), ("columns", names, None)]
    table: Any = msgspec.defstruct("Table", fields, gc=False)
    return _wrapper("dataframe_split", table)


def _wrapper(name: str, kind: Any) -> Any:
    field = name if name in (FEATURES, INSTANCES, "dataframe_split") else "f0"
    return msgspec.defstruct(
        "Wrapper",
        [(field, kind)],
        rename={field: name},
        forbid_unknown_fields=True,
        gc=False,
    )


def _type(column: Column) -> Any:
    kind: Any
    if column.categories is not None:
        kind = Literal[column.categories] if column.categories else Literal["\0"]
    elif column.kind == "datetime":
        kind = str | int | float
    else:
        kind = {"number": float, "integer": INT64, "boolean": bool, "text": str}[column.kind]
    return kind | None if column.nullable else kind

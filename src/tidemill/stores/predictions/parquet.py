"""Predictions as Arrow tables: one layout for all files of a model's day, whatever its versions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa

from tidemill.signature import Signature
from tidemill.stores.predictions.windows import FIELDS, Window, make_window

#: What a row has behind `FIELDS`.
MORE = ("milliseconds", "request_id", "key_id")
TIME = pa.timestamp("us", tz="UTC")
_KINDS = {"number": "float64", "integer": "int64", "boolean": "bool", "text": "string"}


@dataclass(frozen=True)
class ParquetLayout:
    """The columns of a file. `features` is a struct by name, or a list for a tensor; `target` is
    the type of answers and labels, a text of JSON where versions differ."""

    schema: pa.Schema
    kinds: Mapping[str, str]
    target: str
    tensor: bool = False


def make_layout(signatures: Collection[Signature], *, every: bool = True) -> ParquetLayout:
    """The layout in which rows of these signatures fit.

    Args:
        every: Whether there are no versions besides, whose signature is unknown.
    """
    tensor = bool(signatures) and all(s.tensor is not None for s in signatures)
    kinds = _merged(signatures)
    target = _target(signatures) if every else "json"
    value = pa.string() if target == "json" else pa.type_for_alias(target)
    struct = pa.struct([(name, pa.type_for_alias(_KINDS[kind])) for name, kind in kinds.items()])
    fields = [
        ("id", pa.string()),
        ("time", TIME),
        ("version", pa.string()),
        ("role", pa.string()),
        *([("features", pa.list_(pa.float32()) if tensor else struct)] if tensor or kinds else []),
        ("output", value),
        ("probabilities", pa.list_(pa.float32())),
        ("confidence", pa.float64()),
        ("actual", value),
        ("label_time", TIME),
        ("weight", pa.float64()),
        ("milliseconds", pa.float64()),
        ("request_id", pa.string()),
        ("key_id", pa.string()),
    ]
    return ParquetLayout(pa.schema(fields), kinds, target, tensor)


def make_table(
    model: str,
    rows: Sequence[Sequence[Any]],
    signatures: Mapping[str, Signature],
    layout: ParquetLayout,
) -> pa.Table:
    """Rows of `FIELDS` and `MORE` as a table of the layout."""
    window = make_window(model, [row[: len(FIELDS)] for row in rows], signatures)
    more = dict(zip(MORE, zip(*(row[len(FIELDS) :] for row in rows), strict=True), strict=True))
    likely = FIELDS.index("probabilities")
    columns = {
        "id": window.ids,
        "time": _moments(window.times),
        "version": window.versions,
        "role": window.roles,
        "output": _values(window.outputs, layout),
        "probabilities": [None if r[likely] is None else _floats(r[likely]) for r in rows],
        "confidence": window.confidence,
        "actual": _values(window.actual, layout),
        "label_time": _moments(window.label_times),
        "weight": window.weights,
        **more,
    }
    if "features" in layout.schema.names:
        columns["features"] = _features(window, layout)
    arrays = [_array(columns[field.name], field.type) for field in layout.schema]
    return pa.Table.from_arrays(arrays, schema=layout.schema)


def _merged(signatures: Collection[Signature]) -> dict[str, str]:
    """The kind of each column; one that has several kinds is the one that holds all."""
    kinds: dict[str, str] = {}
    for signature in signatures:
        for column in signature.columns:
            before = kinds.get(column.name, column.kind)
            if before != column.kind:
                numeric = {before, column.kind} == {"number", "integer"}
                kinds[column.name] = "number" if numeric else "text"
            else:
                kinds[column.name] = before
    return kinds


def _target(signatures: Collection[Signature]) -> str:
    """The type of answers and labels of all these versions."""
    names = {str: "string", bool: "bool", int: "int64", float: "float64"}
    found = {
        "float64" if s.task == "regression" else names[type(label)]
        for s in signatures
        for label in (s.labels or (0.0,))
    }
    return found.pop() if len(found) == 1 else "json"


def _values(values: Any, layout: ParquetLayout) -> list[Any]:
    if layout.target != "json":
        return list(values)
    return [None if v is None else msgspec.json.encode(v).decode() for v in values]


def _moments(seconds: Any) -> pa.Array:
    micros = pd.Series(np.round(seconds * 1e6)).astype("Int64")
    return pa.array(micros, pa.int64(), from_pandas=True).cast(TIME)


def _floats(held: bytes) -> Any:
    return np.frombuffer(held, "<f4")


def _features(window: Window, layout: ParquetLayout) -> pa.Array:
    frame, missing = window.frame, pa.array(~window.stored)
    if layout.tensor:
        if frame is None:
            return pa.nulls(len(window), pa.list_(pa.float32()))
        rows = frame.to_numpy(np.float32)
        listed = [row if there else None for row, there in zip(rows, window.stored, strict=True)]
        return pa.array(listed, pa.list_(pa.float32()))
    struct = [(name, pa.type_for_alias(_KINDS[kind])) for name, kind in layout.kinds.items()]
    if frame is None:
        return pa.nulls(len(window), pa.struct(struct))
    arrays = [
        _column(frame[name], kind) if name in frame else pa.nulls(len(window), held)
        for (name, kind), (_, held) in zip(layout.kinds.items(), struct, strict=True)
    ]
    return pa.StructArray.from_arrays(arrays, fields=[pa.field(*f) for f in struct], mask=missing)


def _column(values: pd.Series[Any], kind: str) -> pa.Array:
    known = values.notna()
    if kind == "text":
        texts = [str(v) if there else None for v, there in zip(values, known, strict=True)]
        return pa.array(texts, pa.string())
    if kind == "boolean":
        flags = [bool(v) if there else None for v, there in zip(values, known, strict=True)]
        return pa.array(flags, pa.bool_())
    return pa.array(values.astype("float64"), pa.float64(), from_pandas=True).cast(
        pa.type_for_alias(_KINDS[kind])
    )


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    return pa.array(values, kind, from_pandas=True)

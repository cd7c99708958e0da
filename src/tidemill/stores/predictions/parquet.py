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

#: The columns of a row after `FIELDS`.
EXTRA_FIELDS = ("milliseconds", "request_id", "key_id")
TIME = pa.timestamp("us", tz="UTC")
_KINDS = {
    "number": "float64", "integer": "int64", "boolean": "bool", "text": "string",
    "datetime": "timestamp[us]",
}  # fmt: skip
_LABEL_TYPES = {str: "string", bool: "bool", int: "int64", float: "float64"}


@dataclass(frozen=True)
class ParquetLayout:
    """The columns of a file.

    Attributes:
        schema: The column `features` is a struct by name, or a list for a tensor.
        kinds: The kind of each feature by its name.
        target: The Arrow type of outputs and labels; "json" for JSON text if versions differ.
        tensor: Whether the features are a tensor.
    """

    schema: pa.Schema
    kinds: Mapping[str, str]
    target: str
    tensor: bool = False


def make_layout(signatures: Collection[Signature], *, every: bool = True) -> ParquetLayout:
    """Return a layout that fits rows of all these signatures.

    Args:
        every: Whether these are all versions; False if others have an unknown signature.
    """
    tensor = bool(signatures) and all(s.tensor is not None for s in signatures)
    kinds = _merged_kinds(signatures)
    target = _target_type(signatures) if every else "json"
    value = pa.string() if target == "json" else pa.type_for_alias(target)
    features = pa.list_(pa.float32()) if tensor else _struct(kinds)
    fields = [
        ("id", pa.string()),
        ("time", TIME),
        ("version", pa.string()),
        ("role", pa.string()),
        *([("features", features)] if tensor or kinds else []),
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
    """Return rows of `FIELDS` and `EXTRA_FIELDS` as a table of the layout."""
    window = make_window(model, [row[: len(FIELDS)] for row in rows], signatures)
    extra = zip(*(row[len(FIELDS) :] for row in rows), strict=True)
    stored = FIELDS.index("probabilities")
    columns = {
        "id": window.ids,
        "time": _timestamps(window.times),
        "version": window.versions,
        "role": window.roles,
        "output": _values(window.outputs, layout),
        "probabilities": [
            None if row[stored] is None else np.frombuffer(row[stored], "<f4") for row in rows
        ],
        "confidence": window.confidence,
        "actual": _values(window.actual, layout),
        "label_time": _timestamps(window.label_times),
        "weight": window.weights,
        **dict(zip(EXTRA_FIELDS, extra, strict=True)),
    }
    if "features" in layout.schema.names:
        columns["features"] = _features(window, layout)
    arrays = [_array(columns[field.name], field.type) for field in layout.schema]
    return pa.Table.from_arrays(arrays, schema=layout.schema)


def _struct(kinds: Mapping[str, str]) -> pa.StructType:
    return pa.struct([(name, pa.type_for_alias(_KINDS[kind])) for name, kind in kinds.items()])


def _merged_kinds(signatures: Collection[Signature]) -> dict[str, str]:
    """Return the kind of each column; where versions differ, the kind that fits all of them."""
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


def _target_type(signatures: Collection[Signature]) -> str:
    """Return the type of the outputs and labels of all these versions."""
    found = {
        "float64" if s.task == "regression" else _LABEL_TYPES[type(label)]
        for s in signatures
        for label in (s.labels or (0.0,))
    }
    return found.pop() if len(found) == 1 else "json"


def _values(values: Any, layout: ParquetLayout) -> list[Any]:
    if layout.target != "json":
        return list(values)
    return [None if v is None else msgspec.json.encode(v).decode() for v in values]


def _timestamps(seconds: Any) -> pa.Array:
    micros = pd.Series(np.round(seconds * 1e6)).astype("Int64")
    return pa.array(micros, pa.int64(), from_pandas=True).cast(TIME)


def _features(window: Window, layout: ParquetLayout) -> pa.Array:
    frame, known = window.frame, window.stored
    kind = pa.list_(pa.float32()) if layout.tensor else _struct(layout.kinds)
    if frame is None:
        return pa.nulls(len(window), kind)
    if layout.tensor:
        rows = frame.to_numpy(np.float32)
        return pa.array([row if k else None for row, k in zip(rows, known, strict=True)], kind)
    arrays = [
        _column(frame[field.name], layout.kinds[field.name])
        if field.name in frame
        else pa.nulls(len(window), field.type)
        for field in kind
    ]
    return pa.StructArray.from_arrays(arrays, fields=list(kind), mask=pa.array(~known))


def _column(values: pd.Series[Any], kind: str) -> pa.Array:
    if kind in ("number", "integer"):
        floats = pa.array(values.astype("float64"), pa.float64(), from_pandas=True)
        return floats.cast(pa.type_for_alias(_KINDS[kind]))
    if kind == "datetime":
        return _timestamps(values).cast(pa.type_for_alias(_KINDS[kind]))
    convert: Any = str if kind == "text" else bool
    known = values.notna()
    converted = [convert(v) if k else None for v, k in zip(values, known, strict=True)]
    return pa.array(converted, pa.type_for_alias(_KINDS[kind]))


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, kind, from_pandas=True)

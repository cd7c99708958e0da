"""The signature of a model that was registered elsewhere, read off what MLflow wrote of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.bundle import ModelInput
from tidemill.errors import ExportError
from tidemill.signature import Column, Kind, Label, Signature, Tensor

Inputs = tuple[Column, ...] | Tensor

KINDS: dict[str, Kind] = {
    "boolean": "boolean",
    "integer": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "string": "text",
}
MISSING = "\x00missing"
LABELS_TAG = "tidemill.labels"
SIGNATURE_REMEDY = (
    "Log it again with a signature: mlflow.models.infer_signature(X, model.predict(X))."
)
SHOWN = 10  # labels in a message
LABELS_REMEDY = (
    f'Name the labels in a tag of the version, as a JSON list: {LABELS_TAG} = ["stays", "leaves"].'
)


def parse_inputs(schema: Sequence[Mapping[str, Any]], gaps: frozenset[str] = frozenset()) -> Inputs:
    """What MLflow's input schema means for a request.

    Args:
        schema: The entries of the schema as MLmodel holds them: columns, or one tensor.
        gaps: Columns that miss values in the model's input example.

    Raises:
        ExportError: A type that no request can carry, or several tensors; names it.
    """
    if any(entry.get("type") == "tensor" for entry in schema):
        return _tensor(schema)
    names = [str(entry.get("name") or f"column_{place}") for place, entry in enumerate(schema)]
    if len(set(names)) != len(names):
        raise ExportError("The MLflow signature names a column twice.", remedy=SIGNATURE_REMEDY)
    return tuple(_column(name, e, gaps) for name, e in zip(names, schema, strict=True))


def input_layout(signature: Signature) -> tuple[ModelInput, ...]:
    """How the data plane hands rows to a model in another process: a matrix for each kind."""
    if signature.tensor is not None:
        return (ModelInput(signature.tensor.name, signature.tensor.dtype),)
    groups: dict[Any, list[Column]] = {}
    for column in signature.columns:
        groups.setdefault(_carried(column), []).append(column)
    return tuple(
        ModelInput(
            str(dtype),
            dtype,
            tuple(c.name for c in columns),
            MISSING if dtype == "string" and any(c.nullable for c in columns) else None,
        )
        for dtype, columns in groups.items()
    )


def labels_from_tag(tags: Mapping[str, str]) -> tuple[Label, ...]:
    """The labels that a version's tag names; none where it has no such tag.

    Raises:
        ExportError: The tag is no JSON list of texts, numbers or booleans.
    """
    import json

    text = tags.get(LABELS_TAG)
    if text is None:
        return ()
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ExportError(
            f"The tag {LABELS_TAG} is no JSON: {error}.", remedy=LABELS_REMEDY
        ) from error
    plain = isinstance(found, list) and all(isinstance(v, str | int | float) for v in found)
    if not plain or len(found) < 2 or len(set(found)) != len(found):
        raise ExportError(f"The tag {LABELS_TAG} lists no labels.", remedy=LABELS_REMEDY)
    return tuple(found)


def labels_from_output(output: npt.NDArray[Any], tagged: tuple[Label, ...]) -> tuple[Label, ...]:
    """The labels that answers like these are out of; none for a model that answers with numbers.

    Args:
        output: What the model gave for some rows.

    Raises:
        ExportError: It answers with texts nobody listed, or with more than one value a row.
    """
    flat = output[:, 0] if output.ndim == 2 and output.shape[1] == 1 else output
    if tagged:
        return tagged
    if flat.ndim == 2 and are_probabilities(flat):
        return tuple(range(flat.shape[1]))
    if flat.ndim != 1:
        shown = "x".join(str(size) for size in flat.shape[1:])
        raise ExportError(
            f"The model answers {shown} numbers a row that are no probabilities.",
            remedy="A prediction is one label or one number a row; let the model answer that.",
        )
    if flat.dtype.kind == "b":
        return (False, True)
    if flat.dtype.kind not in "fiu":
        seen = ", ".join(sorted({str(text) for text in flat.tolist()})[:SHOWN])
        raise ExportError(
            f"The model answers with texts, and nothing lists them all; sample rows gave: {seen}.",
            remedy=LABELS_REMEDY,
        )
    return ()


def are_probabilities(rows: npt.NDArray[Any]) -> bool:
    """Whether each row is a distribution over classes."""
    if rows.dtype.kind != "f" or not len(rows):
        return False
    return bool((rows >= -1e-6).all() and np.allclose(rows.sum(axis=1), 1.0, atol=1e-3))


def _tensor(schema: Sequence[Mapping[str, Any]]) -> Tensor:
    if len(schema) != 1:
        raise ExportError(
            f"The MLflow signature has {len(schema)} tensors; a request carries one, or columns.",
            remedy="Sign the model with a DataFrame, one column for each input.",
        )
    spec = schema[0]["tensor-spec"]
    shape, dtype = [int(size) for size in spec["shape"]], str(spec["dtype"])
    if not shape or shape[0] != -1 or any(size < 1 for size in shape[1:]):
        raise ExportError(
            f"The MLflow signature's tensor has the shape {shape}.",
            expected="-1 for the rows, and fixed sizes behind it",
            remedy=SIGNATURE_REMEDY,
        )
    if np.dtype(dtype).kind not in "fiub":
        raise ExportError(f"The MLflow signature's tensor is of {dtype}.", expected="numbers")
    name = str(schema[0].get("name") or "input")
    wide = "float32" if dtype in ("float32", "float16", "uint8", "int8", "bool") else "float64"
    return Tensor(name, tuple(shape[1:]) or (1,), "float32" if wide == "float32" else "float64")


def _column(name: str, entry: Mapping[str, Any], gaps: frozenset[str]) -> Column:
    kind = KINDS.get(str(entry.get("type")))
    if kind is None:
        raise ExportError(
            f"Column '{name}' is of MLflow's type {entry.get('type')}, which no request carries.",
            field=name,
            expected=f"one of {', '.join(KINDS)}",
            remedy="Let the model take it as a text or as numbers, and sign it so.",
        )
    optional = entry.get("required") is False or bool(entry.get("optional"))
    return Column(name, kind, nullable=optional or name in gaps)


def _carried(column: Column) -> str:
    if column.kind == "text":
        return "string"
    if column.nullable or column.kind == "number":
        return "float64"
    return {"integer": "int64", "boolean": "bool"}[column.kind]

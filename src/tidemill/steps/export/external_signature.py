"""The signature of a model that was registered by another tool, from its MLflow metadata."""

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
    f'List the labels in a tag of the version, as JSON: {LABELS_TAG} = ["stays", "leaves"].'
)


def parse_inputs(
    schema: Sequence[Mapping[str, Any]], missing: frozenset[str] = frozenset()
) -> Inputs:
    """Convert MLflow's input schema to the inputs of a signature.

    Args:
        schema: The entries of the schema in the MLmodel file: columns, or one tensor.
        missing: Columns that have missing values in the model's input example.

    Raises:
        ExportError: A column has a type that requests do not support, or there are several tensors.
    """
    if any(entry.get("type") == "tensor" for entry in schema):
        return _tensor(schema)
    names = [
        str(entry.get("name") or f"column_{position}") for position, entry in enumerate(schema)
    ]
    if len(set(names)) != len(names):
        raise ExportError(
            "The MLflow signature has two columns of the same name.", remedy=SIGNATURE_REMEDY
        )
    return tuple(_column(name, e, missing) for name, e in zip(names, schema, strict=True))


def input_layout(signature: Signature) -> tuple[ModelInput, ...]:
    """How serving passes rows to a model in another process: one matrix for each type."""
    if signature.tensor is not None:
        return (ModelInput(signature.tensor.name, signature.tensor.dtype),)
    groups: dict[Any, list[Column]] = {}
    for column in signature.columns:
        groups.setdefault(_dtype(column), []).append(column)
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
    """The labels listed in a version's tag; empty if it has no such tag.

    Raises:
        ExportError: The tag is not a JSON list of at least two distinct labels.
    """
    import json

    text = tags.get(LABELS_TAG)
    if text is None:
        return ()
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ExportError(
            f"The tag {LABELS_TAG} is not JSON: {error}.", remedy=LABELS_REMEDY
        ) from error
    plain = isinstance(found, list) and all(isinstance(v, str | int | float) for v in found)
    if not plain or len(found) < 2 or len(set(found)) != len(found):
        raise ExportError(f"The tag {LABELS_TAG} is not a list of labels.", remedy=LABELS_REMEDY)
    return tuple(found)


def labels_from_output(output: npt.NDArray[Any], tagged: tuple[Label, ...]) -> tuple[Label, ...]:
    """Infer the labels from a model's predictions; empty if it predicts numbers.

    Args:
        output: Predictions for some rows.

    Raises:
        ExportError: The model predicts texts without a list of labels, or several values a row.
    """
    flat = output[:, 0] if output.ndim == 2 and output.shape[1] == 1 else output
    if tagged:
        return tagged
    if flat.ndim == 2 and are_probabilities(flat):
        return tuple(range(flat.shape[1]))
    if flat.ndim != 1:
        shown = "x".join(str(size) for size in flat.shape[1:])
        raise ExportError(
            f"The model returns {shown} numbers a row that are not probabilities.",
            remedy="A model must predict one label or one number a row.",
        )
    if flat.dtype.kind == "b":
        return (False, True)
    if flat.dtype.kind not in "fiu":
        found = ", ".join(sorted({str(text) for text in flat.tolist()})[:SHOWN])
        raise ExportError(
            f"The model predicts texts, and its labels are not listed; sample rows gave: {found}.",
            remedy=LABELS_REMEDY,
        )
    return ()


def are_probabilities(rows: npt.NDArray[Any]) -> bool:
    """Whether each row is a probability distribution over classes."""
    if rows.dtype.kind != "f" or not len(rows):
        return False
    return bool((rows >= -1e-6).all() and np.allclose(rows.sum(axis=1), 1.0, atol=1e-3))


def _tensor(schema: Sequence[Mapping[str, Any]]) -> Tensor:
    if len(schema) != 1:
        raise ExportError(
            f"The MLflow signature has {len(schema)} tensors; requests support one, or columns.",
            remedy="Log the model with the signature of a DataFrame, one column for each input.",
        )
    spec = schema[0]["tensor-spec"]
    shape, dtype = [int(size) for size in spec["shape"]], str(spec["dtype"])
    if not shape or shape[0] != -1 or any(size < 1 for size in shape[1:]):
        raise ExportError(
            f"The MLflow signature's tensor has the shape {shape}.",
            expected="-1 for the rows, followed by fixed sizes",
            remedy=SIGNATURE_REMEDY,
        )
    if np.dtype(dtype).kind not in "fiub":
        raise ExportError(f"The MLflow signature's tensor is of {dtype}.", expected="numbers")
    name = str(schema[0].get("name") or "input")
    wide = "float32" if dtype in ("float32", "float16", "uint8", "int8", "bool") else "float64"
    return Tensor(name, tuple(shape[1:]) or (1,), "float32" if wide == "float32" else "float64")


def _column(name: str, entry: Mapping[str, Any], missing: frozenset[str]) -> Column:
    kind = KINDS.get(str(entry.get("type")))
    if kind is None:
        raise ExportError(
            f"Column '{name}' has the unsupported MLflow type {entry.get('type')}.",
            field=name,
            expected=f"one of {', '.join(KINDS)}",
            remedy="Change the model to take text or numbers, and log it with that signature.",
        )
    optional = entry.get("required") is False or bool(entry.get("optional"))
    return Column(name, kind, nullable=optional or name in missing)


def _dtype(column: Column) -> str:
    if column.kind == "text":
        return "string"
    if column.nullable or column.kind == "number":
        return "float64"
    return {"integer": "int64", "boolean": "bool"}[column.kind]

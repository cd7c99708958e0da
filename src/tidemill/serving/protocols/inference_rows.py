"""From the input tensors of an Open Inference Protocol request to a model's rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from tidemill.errors import InputError
from tidemill.serving.codec.tensor_encoder import EncodedRows
from tidemill.serving.protocols.tensors import Array
from tidemill.signature import KIND_WORDS, Column, Signature, Tensor

if TYPE_CHECKING:
    from tidemill.serving.model.predictor import Predictor


def rows_of(predictor: Predictor, tensors: dict[str, Array]) -> EncodedRows:
    """The input tensors as checked rows.

    Raises:
        InputError: An input is missing, unknown, or has the wrong type or shape; names it.
    """
    if not tensors:
        raise InputError("'inputs' is empty.", field="inputs", expected="at least one tensor")
    signature = predictor.signature
    if signature.tensor is not None:
        return predictor.encoder.encode_tensor(_only(signature.tensor, tensors))
    named = set(tensors) == set(signature.names)
    matrix = _stacked(signature, tensors) if named else _matrix(signature, tensors)
    if matrix is not None and (rows := predictor.encoder.encode_matrix(matrix)) is not None:
        return rows
    if not named:
        if matrix is None:
            raise _wrong_inputs(signature, tensors)
        tensors = {name: matrix[:, i] for i, name in enumerate(signature.names)}
    counts = {name: len(array) for name, array in tensors.items()}
    if len(set(counts.values())) != 1:
        some = dict(list(counts.items())[:10])
        raise InputError(f"The inputs have different numbers of rows: {some}.", field="inputs")
    columns = {c.name: _column(c, tensors[c.name]) for c in signature.columns}
    if not len(next(iter(columns.values()))):
        raise InputError("The inputs have no rows.", field="inputs", expected="at least one row")
    return predictor.encoder.encode_columns(columns)


def _only(tensor: Tensor, tensors: dict[str, Array]) -> Array:
    """The tensor of a tensor model, which must be the only input."""
    if set(tensors) != {tensor.name}:
        raise InputError(
            f"The inputs are {', '.join(repr(name[:80]) for name in list(tensors)[:10])}.",
            field="inputs",
            expected=f"'{tensor.name}' alone",
        )
    array = tensors[tensor.name]
    if array.dtype.kind not in "fiu":
        raise InputError(
            f"'{tensor.name}' is not a numeric tensor.", field=tensor.name, expected="numbers"
        )
    return array


def _stacked(signature: Signature, tensors: dict[str, Array]) -> Array | None:
    """All columns as one matrix; None unless all are numeric and of the same shape."""
    arrays = [tensors[name] for name in signature.names]
    shape = arrays[0].shape
    if shape[1:] not in ((), (1,)) or any(
        a.shape != shape or a.dtype.kind not in "fiu" for a in arrays
    ):
        return None
    return np.concatenate(arrays).reshape(len(arrays), -1).T


def _matrix(signature: Signature, tensors: dict[str, Array]) -> Array | None:
    """The single matrix that holds all columns; None if something else was sent."""
    if len(tensors) != 1 or any(c.kind == "text" for c in signature.columns):
        return None
    (matrix,) = tensors.values()
    fits = matrix.ndim == 2 and matrix.shape[1] == len(signature.columns)
    return matrix if fits and matrix.dtype.kind in "fiu" else None


def _column(column: Column, array: Array) -> Array | list[Any]:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(
            f"'{column.name}' has the shape {list(array.shape)}.",
            field=column.name,
            expected=f"[n] or [n, 1]: {KIND_WORDS[column.kind]} for each row",
        )
    if column.kind == "boolean" and array.dtype.kind in "fiu":
        return [_truth(value) for value in array.tolist()]
    return array


def _truth(value: float) -> Any:
    """0 and 1 as booleans; other numbers unchanged, which the encoder refuses."""
    if value != value:
        return None
    return bool(value) if value in (0, 1) else value


def _wrong_inputs(signature: Signature, tensors: dict[str, Array]) -> InputError:
    missing = [name for name in signature.names if name not in tensors]
    known = set(signature.names)
    unknown = [name for name in tensors if name not in known]
    parts = [f"Missing: {json.dumps(missing[:10])}."] if missing else []
    parts += [f"Unknown: {json.dumps([name[:80] for name in unknown[:10]])}."] if unknown else []
    return InputError(
        " ".join(parts),
        field=(missing or unknown)[0][:80],
        expected=f"the inputs {', '.join(signature.names[:30])}",
    )

"""Model metadata of the Open Inference Protocol: names, datatypes and shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tidemill.datetimes import EPOCHS
from tidemill.serving.protocols.tensors import BYTES, datatype_of
from tidemill.signature import Column, Kind, Signature

if TYPE_CHECKING:
    from tidemill.serving.model.predictor import Predictor

DATATYPES: dict[Kind, str] = {
    "number": "FP64", "integer": "INT64", "boolean": "BOOL", "text": BYTES, "datetime": BYTES,
}  # fmt: skip


def model_metadata(predictor: Predictor) -> dict[str, Any]:
    """The inputs and outputs of one model, in the protocol's terms."""
    signature = predictor.signature
    return {
        "name": predictor.name,
        "versions": [predictor.version],
        "platform": f"tidemill_{predictor.bundle.manifest.runtime}",
        "inputs": _inputs(signature),
        "outputs": model_outputs(signature),
    }


def model_outputs(signature: Signature) -> list[dict[str, Any]]:
    """The outputs of a model: name, datatype and shape."""
    if not signature.labels:
        return [{"name": "prediction", "datatype": "FP64", "shape": [-1]}]
    kind = datatype_of(np.array(list(signature.labels)))
    return [
        {"name": "prediction", "datatype": kind, "shape": [-1]},
        {"name": "probabilities", "datatype": "FP64", "shape": [-1, len(signature.labels)]},
    ]


def _inputs(signature: Signature) -> list[dict[str, Any]]:
    tensor = signature.tensor
    if tensor is not None:
        kind = {"float32": "FP32", "float64": "FP64"}[tensor.dtype]
        return [{"name": tensor.name, "datatype": kind, "shape": [-1, *tensor.shape]}]
    return [
        {"name": column.name, "datatype": _datatype(column), "shape": [-1, 1]}
        for column in signature.columns
    ]


def _datatype(column: Column) -> str:
    return "INT64" if column.format in EPOCHS else DATATYPES[column.kind]

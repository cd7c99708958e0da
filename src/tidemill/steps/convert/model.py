"""Conversion of a whole model, from the signature's columns to label, probabilities or value."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tidemill.bundle import ModelInput, ModelOutputs
from tidemill.errors import ExportError
from tidemill.signature import Signature

# Importing these modules registers their converters.
from tidemill.steps.convert import (  # noqa: F401
    boosting,
    columns,
    encoders,
    ensembles,
    feature_transforms,
    kernels,
    linear,
    skl2onnx_steps,
    trees,
    wrappers,
)
from tidemill.steps.convert.blocks import (
    MISSING,
    Block,
    NumberBlock,
    TensorBlock,
    TextBlock,
    join_columns,
    number_block,
)
from tidemill.steps.convert.dispatch import EstimatorOutputs, convert_estimator
from tidemill.steps.convert.graph import DOUBLE, FLOAT, INT64, STRING, Graph

NUMBERS, TEXTS = "numbers", "texts"

#: Modules of converters for optional packages, imported if the package has been.
OPTIONAL = {
    "catboost": "tidemill.steps.convert.catboost",
    "lightgbm": "tidemill.steps.convert.lightgbm",
    "skorch": "tidemill.steps.convert.skorch",
    "xgboost": "tidemill.steps.convert.xgboost",
}


@dataclass(frozen=True)
class Converted:
    """A model in ONNX, with its inputs and outputs.

    Attributes:
        external_steps: Steps that skl2onnx converted, for which the precision matters.
    """

    model: onnx.ModelProto
    inputs: tuple[ModelInput, ...]
    outputs: ModelOutputs
    external_steps: tuple[str, ...] = ()


def convert(model: Any, signature: Signature, *, single: bool = False) -> Converted:
    """Convert a fitted model to ONNX.

    Args:
        model: A fitted estimator or pipeline.
        signature: Its columns are the model's, in order.
        single: Whether skl2onnx converts its steps in single precision.

    Raises:
        ExportError: A step has no compiled form; the message names it.
    """
    for package, module in OPTIONAL.items():
        if package in sys.modules:
            importlib.import_module(module)
    graph = Graph(single=single)
    block, inputs, infos = signature_block(signature)
    outcome = convert_estimator(model, graph, block)
    outputs, ends = _outputs(graph, outcome, signature)
    return Converted(graph.model(infos, ends), inputs, outputs, tuple(graph.external_steps))


def signature_block(
    signature: Signature,
) -> tuple[Block, tuple[ModelInput, ...], list[onnx.ValueInfoProto]]:
    """The signature's inputs as a block, and their descriptions for the manifest and the graph."""
    if signature.tensor is not None:
        tensor = signature.tensor
        kind = FLOAT if tensor.dtype == "float32" else DOUBLE
        info = helper.make_tensor_value_info(tensor.name, kind, [None, *tensor.shape])
        return (
            TensorBlock(tensor.name, tensor.shape),
            (ModelInput(tensor.name, tensor.dtype),),
            [info],
        )
    numeric = [c for c in signature.columns if c.kind != "text"]
    textual = [c for c in signature.columns if c.kind == "text"]
    inputs, infos = [], []
    if numeric:
        inputs.append(ModelInput(NUMBERS, "float64", tuple(c.name for c in numeric)))
        infos.append(helper.make_tensor_value_info(NUMBERS, DOUBLE, [None, len(numeric)]))
    if textual:
        missing = MISSING if any(c.nullable for c in textual) else None
        inputs.append(ModelInput(TEXTS, "string", tuple(c.name for c in textual), missing))
        infos.append(helper.make_tensor_value_info(TEXTS, STRING, [None, len(textual)]))
    return _columns(signature), tuple(inputs), infos


def _columns(signature: Signature) -> Block:
    numeric = [c for c in signature.columns if c.kind != "text"]
    textual = [c for c in signature.columns if c.kind == "text"]
    whole = number_block(NUMBERS, len(numeric))
    parts: list[NumberBlock | TextBlock] = []
    for column in signature.columns:
        if column.kind == "text":
            parts.append(TextBlock(TEXTS, np.array([textual.index(column)]), (None,)))
        else:
            position = numeric.index(column)
            part = whole.take(np.array([position]))
            part.nullable[:] = column.nullable
            parts.append(part)
    return join_columns(tuple(c.name for c in signature.columns), parts)


def _outputs(
    graph: Graph, outcome: EstimatorOutputs, signature: Signature
) -> tuple[ModelOutputs, dict[str, tuple[str, int, Any]]]:
    """The model's outputs, for the manifest and the graph."""
    if signature.task == "regression":
        if outcome.value is None:
            raise ExportError("A classifier cannot predict a regression target.")
        flat = graph.reshape(graph.double(outcome.value), -1)
        return ModelOutputs(value="value"), {"value": (flat, DOUBLE, [None])}
    ends: dict[str, tuple[str, int, Any]] = {}
    if outcome.label is not None:
        ends["label"] = (outcome.label, INT64, [None])
    if outcome.probabilities is not None:
        ends["probabilities"] = (outcome.probabilities, DOUBLE, [None, len(signature.labels)])
    if not ends:
        raise ExportError("A regressor cannot predict classes.")
    names = ModelOutputs(
        label="label" if "label" in ends else None,
        probabilities="probabilities" if "probabilities" in ends else None,
    )
    return names, ends

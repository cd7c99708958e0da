"""Adaptation of an ONNX model that another tool exported, so that a bundle can serve it.

The graph itself is kept. Casts and reshapes are added if its inputs have another type or rank, and
labels are replaced by indices. ZipMap, which converts probabilities to dictionaries, is removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tidemill.bundle import ModelInput, ModelOutputs
from tidemill.errors import ExportError
from tidemill.signature import Column, Kind, Label, Tensor
from tidemill.steps.export.external_signature import LABELS_REMEDY, Inputs

FEED_DTYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.INT64: "int64",
    TensorProto.BOOL: "bool",
    TensorProto.STRING: "string",
}
CAST_FROM = {
    TensorProto.FLOAT16: TensorProto.FLOAT,
    TensorProto.INT32: TensorProto.INT64,
    TensorProto.INT16: TensorProto.INT64,
    TensorProto.INT8: TensorProto.INT64,
    TensorProto.UINT8: TensorProto.INT64,
}
KINDS: dict[Any, Kind] = {
    "float32": "number", "float64": "number", "int64": "integer", "bool": "boolean",
    "string": "text",
}  # fmt: skip
CLASSES = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")
PREFIX = "tidemill_"


@dataclass
class AdaptedGraph:
    """A graph that is being adapted.

    Attributes:
        inputs: The inputs of a request.
        model_inputs: How a request's inputs fill the graph's inputs.
        outputs, labels: What it predicts; without labels, the task is regression.
        ambiguous_output: A [rows, n] output that may be probabilities; only its values show it.
    """

    model: onnx.ModelProto
    inputs: Inputs = ()
    model_inputs: tuple[ModelInput, ...] = ()
    outputs: ModelOutputs = field(default_factory=ModelOutputs)
    labels: tuple[Label, ...] = ()
    ambiguous_output: str | None = None


def adapt_onnx(
    model: onnx.ModelProto, inputs: Inputs | None, tagged: tuple[Label, ...]
) -> AdaptedGraph:
    """Adapt an ONNX model for a bundle. Changes `model`.

    Args:
        inputs: The inputs in its MLflow signature; None if it has none.
        tagged: The labels in the version's tag.

    Raises:
        ExportError: A bundle does not support its inputs or outputs; the message says which.
    """
    fitted = AdaptedGraph(model)
    _adapt_inputs(fitted, inputs)
    _adapt_outputs(fitted, tagged)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"The ONNX model is invalid: {error}") from error
    return fitted


def _adapt_inputs(fitted: AdaptedGraph, inputs: Inputs | None) -> None:
    graph = fitted.model.graph
    constants = {initializer.name for initializer in graph.initializer}
    entries = [entry for entry in graph.input if entry.name not in constants]
    if not entries:
        raise ExportError("The ONNX model has no inputs.")
    shapes = {entry.name: _shape(entry) for entry in entries}
    if len(entries) == 1 and len(shapes[entries[0].name]) >= 2:
        _adapt_single_input(fitted, entries[0], shapes[entries[0].name], inputs)
    else:
        _adapt_column_inputs(fitted, entries, shapes, inputs)


def _adapt_single_input(
    fitted: AdaptedGraph, entry: Any, shape: list[int | None], inputs: Inputs | None
) -> None:
    """One matrix or image that holds all inputs."""
    dtype: Any = _adapt_input(fitted, entry, shape)
    if isinstance(inputs, tuple):
        width = shape[1] if len(shape) == 2 else None
        if len(shape) != 2 or (width is not None and width != len(inputs)):
            raise ExportError(
                f"The ONNX model's input '{entry.name}' is {_shape_text(shape)}; its signature has "
                f"{len(inputs)} columns."
            )
        texts = {column.kind == "text" for column in inputs}
        if texts != {dtype == "string"}:
            raise ExportError(
                f"The ONNX model's input '{entry.name}' is {dtype}, unlike in its signature."
            )
        fitted.inputs = inputs
        fitted.model_inputs = (ModelInput(entry.name, dtype, tuple(c.name for c in inputs)),)
        return
    sizes = [size for size in shape[1:] if size is not None]
    target_shape = list(inputs.shape) if inputs is not None else sizes
    if (
        dtype == "string"
        or len(target_shape) != len(shape) - 1
        or not _agree(shape[1:], target_shape)
    ):
        raise ExportError(f"The ONNX model's input '{entry.name}' is {dtype} {_shape_text(shape)}.")
    carried: Any = "float32" if dtype == "float32" else "float64"
    if carried != dtype:
        carried = _recast(fitted, entry, "float64")
    name = inputs.name if inputs is not None else entry.name
    fitted.inputs = Tensor(
        name, tuple(target_shape), "float32" if carried == "float32" else "float64"
    )
    fitted.model_inputs = (ModelInput(entry.name, carried),)


def _adapt_column_inputs(
    fitted: AdaptedGraph,
    entries: Sequence[Any],
    shapes: Mapping[str, list[int | None]],
    inputs: Inputs | None,
) -> None:
    """One input for each column, as converters of DataFrames produce them."""
    columns, model_inputs = [], []
    for entry in entries:
        shape = shapes[entry.name]
        if len(shape) > 2 or (len(shape) == 2 and shape[1] not in (1, None)):
            raise ExportError(
                f"The ONNX model has several inputs, and '{entry.name}' is {_shape_text(shape)}.",
                expected="one input, or one column in each",
            )
        dtype = _adapt_input(fitted, entry, [None, 1])
        if len(shape) == 1:
            _insert_before(fitted.model.graph, entry.name, "Reshape", _constant([-1]))
        columns.append(Column(entry.name, KINDS[dtype]))
        model_inputs.append(ModelInput(entry.name, dtype, (entry.name,)))
    if inputs is not None:
        if isinstance(inputs, Tensor) or {c.name for c in inputs} != {c.name for c in columns}:
            named = [inputs.name] if isinstance(inputs, Tensor) else [c.name for c in inputs]
            raise ExportError(
                f"The ONNX model has the inputs {', '.join(c.name for c in columns)}; its "
                f"signature has {', '.join(named)}."
            )
        columns = list(inputs)
    fitted.inputs, fitted.model_inputs = tuple(columns), tuple(model_inputs)


def _adapt_input(fitted: AdaptedGraph, entry: Any, shape: list[int | None]) -> Any:
    """The type in which serving passes an input; other types are cast in the graph."""
    kind = entry.type.tensor_type.elem_type
    if shape and shape[0] not in (None, 0):
        raise ExportError(
            f"The ONNX model's input '{entry.name}' has a fixed number of rows: {shape[0]}.",
            remedy="Export it with a dynamic first axis.",
        )
    if kind in CAST_FROM:
        _insert_before(fitted.model.graph, entry.name, "Cast", to=kind)
        kind = CAST_FROM[kind]
    if kind not in FEED_DTYPES:
        raise ExportError(f"The ONNX model's input '{entry.name}' has the unsupported type {kind}.")
    _declare(entry, kind, shape)
    return FEED_DTYPES[kind]


def _recast(fitted: AdaptedGraph, entry: Any, dtype: Any) -> Any:
    """Pass doubles to an input of integers or booleans, and cast them in the graph."""
    kind = entry.type.tensor_type.elem_type
    _insert_before(fitted.model.graph, entry.name, "Cast", to=kind)
    shape = _shape(entry)
    _declare(entry, TensorProto.DOUBLE, shape)
    return dtype


def _adapt_outputs(fitted: AdaptedGraph, tagged: tuple[Label, ...]) -> None:
    graph = fitted.model.graph
    labels = tagged or _labels_in_graph(graph)
    _drop_zip_maps(graph)
    label = next(
        (o for o in graph.output if _kind(o) in (TensorProto.STRING, TensorProto.INT64)), None
    )
    rows = [o for o in graph.output if _kind(o) in (TensorProto.FLOAT, TensorProto.DOUBLE, 0)]
    wide = next((o for o in rows if len(_shape(o)) == 2 and _shape(o)[1] != 1), None)
    if label is not None:
        _adapt_labels(fitted, label, wide, labels)
    elif wide is not None:
        _keep(graph, [_with_type(graph, wide)])
        fitted.ambiguous_output, fitted.labels = wide.name, labels
        fitted.outputs = ModelOutputs(probabilities=wide.name)
    elif rows:
        fitted.outputs = ModelOutputs(value=_value_of(graph, rows[0].name))
        _keep(graph, [o for o in graph.output if o.name == fitted.outputs.value])
    else:
        raise ExportError("The ONNX model's outputs are neither labels nor numbers.")


def _adapt_labels(fitted: AdaptedGraph, label: Any, wide: Any, labels: tuple[Label, ...]) -> None:
    graph = fitted.model.graph
    if not labels and wide is not None and _shape(wide)[1]:
        labels = tuple(range(int(_shape(wide)[1] or 0)))
    if not labels:
        raise ExportError(
            "The ONNX model predicts labels that are not listed.", remedy=LABELS_REMEDY
        )
    fitted.labels = labels
    indices = None
    if all(isinstance(value, int) for value in labels) and _kind(label) == TensorProto.INT64:
        indices = _index_of(graph, label.name, np.array(labels, np.int64))
    elif wide is None:
        raise ExportError("The ONNX model predicts texts without probabilities.")
    fitted.outputs = ModelOutputs(label=indices, probabilities=wide.name if wide else None)
    kept = [o for o in graph.output if o.name == indices]
    _keep(graph, kept + ([_with_type(graph, wide)] if wide is not None else []))


def _labels_in_graph(graph: Any) -> tuple[Label, ...]:
    """The labels in the attributes of a ZipMap or a classifier of the graph."""
    for node in reversed(graph.node):
        for attribute in node.attribute:
            if attribute.name in CLASSES and (attribute.strings or attribute.ints):
                texts = tuple(text.decode() for text in attribute.strings)
                return texts or tuple(int(value) for value in attribute.ints)
    return ()


def _drop_zip_maps(graph: Any) -> None:
    for node in [n for n in graph.node if n.op_type == "ZipMap"]:
        outputs = [o for o in graph.output if o.name != node.output[0]]
        if len(outputs) == len(graph.output):
            continue
        size = sum(len(a.strings) or len(a.ints) for a in node.attribute)
        info = helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, [None, size])
        _keep(graph, [*outputs, info])
        graph.node.remove(node)


def _index_of(graph: Any, label: str, labels: Any) -> str:
    """Convert integer labels to their indices in the list."""
    known, name = f"{PREFIX}labels", f"{PREFIX}label"
    graph.initializer.append(numpy_helper.from_array(labels.reshape(1, -1), known))
    column, hits = f"{label}_column", f"{label}_hits"
    graph.node.extend(
        [
            helper.make_node("Reshape", [label, _constant([-1, 1])(graph)], [column]),
            helper.make_node("Equal", [column, known], [hits]),
            helper.make_node("Cast", [hits], [f"{hits}_int"], to=TensorProto.INT32),
            helper.make_node("ArgMax", [f"{hits}_int"], [name], axis=1, keepdims=0),
        ]
    )
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.INT64, [None]))
    return name


def _with_type(graph: Any, output: Any) -> Any:
    """The output, declared as float if the graph does not say its type."""
    if _kind(output) == 0:
        output.type.tensor_type.elem_type = TensorProto.FLOAT
    return output


def _value_of(graph: Any, name: str) -> str:
    """Convert an output to one number a row, in double precision."""
    double, value = f"{PREFIX}double", f"{PREFIX}value"
    graph.node.extend(
        [
            helper.make_node("Cast", [name], [double], to=TensorProto.DOUBLE),
            helper.make_node("Reshape", [double, _constant([-1])(graph)], [value]),
        ]
    )
    graph.output.append(helper.make_tensor_value_info(value, TensorProto.DOUBLE, [None]))
    return value


def _insert_before(graph: Any, name: str, op: str, *constants: Any, **options: Any) -> None:
    """Insert a node between an input and the nodes that read it."""
    inner = f"{PREFIX}{op.lower()}_{name}"
    for node in graph.node:
        for position, read in enumerate(node.input):
            if read == name:
                node.input[position] = inner
    arguments = [name, *(constant(graph) for constant in constants)]
    graph.node.insert(0, helper.make_node(op, arguments, [inner], **options))
    for output in graph.output:  # an input that is also an output
        if output.name == name:
            raise ExportError(f"The ONNX model returns its own input '{name}'.")


def _constant(values: list[int]) -> Any:
    """A function that adds a constant to a graph and returns its name."""

    def add(graph: Any) -> str:
        name = f"{PREFIX}constant_{len(graph.initializer)}"
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    return add


def _keep(graph: Any, outputs: Sequence[Any]) -> None:
    kept = [type(output).FromString(output.SerializeToString()) for output in outputs]
    del graph.output[:]
    graph.output.extend(kept)


def _declare(entry: Any, kind: int, shape: Sequence[int | None]) -> None:
    rows = [None, *shape[1:]]
    entry.CopyFrom(helper.make_tensor_value_info(entry.name, kind, rows))


def _kind(entry: Any) -> int:
    return int(entry.type.tensor_type.elem_type) if entry.type.HasField("tensor_type") else -1


def _shape(entry: Any) -> list[int | None]:
    """The size of each axis; None if it is dynamic."""
    if not entry.type.HasField("tensor_type"):
        return []
    dims = entry.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims]


def _agree(found: Sequence[int | None], expected: Sequence[int]) -> bool:
    return all(f in (None, w) for f, w in zip(found, expected, strict=True))


def _shape_text(shape: Sequence[int | None]) -> str:
    sizes = ["rows" if shape[:1] == [None] else str(size) for size in shape[:1]]
    return f"[{', '.join([*sizes, *(str(size or 'any') for size in shape[1:])])}]"

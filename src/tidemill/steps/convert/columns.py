"""Pipelines, column transformers, imputers, scalers and encoders."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.compose import ColumnTransformer
from sklearn.feature_selection import SelectorMixin
from sklearn.impute import SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)

from tidemill.errors import ExportError
from tidemill.steps.convert.blocks import (
    Block,
    FrameBlock,
    NumberBlock,
    TextBlock,
    as_numbers,
    concatenate,
    materialize,
    matrix,
    number_block,
)
from tidemill.steps.convert.dispatch import (
    EstimatorOutputs,
    convert_estimator,
    convert_scores,
    convert_transformer,
)
from tidemill.steps.convert.graph import Graph

#: NumPy functions that a FunctionTransformer may have, and the equivalent ONNX operations.
OPERATIONS = {
    np.abs: "Abs",
    np.absolute: "Abs",
    np.exp: "Exp",
    np.log: "Log",
    np.sqrt: "Sqrt",
    np.negative: "Neg",
    np.sin: "Sin",
    np.cos: "Cos",
    np.tanh: "Tanh",
    np.floor: "Floor",
    np.ceil: "Ceil",
    np.sign: "Sign",
    np.reciprocal: "Reciprocal",
}


@convert_transformer.register(Pipeline)
def _pipeline(step: Pipeline, graph: Graph, block: Block) -> Block:
    for _, inner in step.steps:
        block = convert_step(inner, graph, block)
    return block


@convert_estimator.register(Pipeline)
def _pipeline_answer(step: Pipeline, graph: Graph, block: Block) -> EstimatorOutputs:
    for _, inner in step.steps[:-1]:
        block = convert_step(inner, graph, block)
    return convert_estimator(step.steps[-1][1], graph, block)


@convert_scores.register(Pipeline)
def _pipeline_scores(step: Pipeline, graph: Graph, block: Block) -> str:
    for _, inner in step.steps[:-1]:
        block = convert_step(inner, graph, block)
    return convert_scores(step.steps[-1][1], graph, block)


def convert_step(step: Any, graph: Graph, block: Block) -> Block:
    """Convert a step of a pipeline, which may be "passthrough"."""
    if step is None or (isinstance(step, str) and step == "passthrough"):
        return block
    return convert_transformer(step, graph, block)


@convert_transformer.register(ColumnTransformer)
def _column_transformer(step: ColumnTransformer, graph: Graph, block: Block) -> Block:
    parts = []
    for _, inner, chosen in step.transformers_:
        index = positions(chosen, list(getattr(step, "feature_names_in_", [])), step.n_features_in_)
        if len(index) == 0 or (isinstance(inner, str) and inner == "drop"):
            continue
        parts.append(as_numbers(graph, convert_step(inner, graph, _take(block, index))))
    return concatenate(graph, parts)


@convert_transformer.register(FeatureUnion)
def _feature_union(step: FeatureUnion, graph: Graph, block: Block) -> Block:
    weights = step.transformer_weights or {}
    parts = []
    for name, inner in step.transformer_list:
        if isinstance(inner, str) and inner == "drop":
            continue
        part = as_numbers(graph, convert_step(inner, graph, block))
        if name in weights:
            scaled = graph.add("Mul", matrix(graph, part), graph.constant(float(weights[name])))
            part = number_block(scaled, part.width)
        parts.append(part)
    return concatenate(graph, parts)


def positions(chosen: Any, names: list[str], width: int) -> list[int]:
    """The positions of a column transformer's columns: names, indices, a slice or a mask."""
    if isinstance(chosen, slice) and isinstance(chosen.start or chosen.stop, str):
        first = names.index(chosen.start) if chosen.start is not None else 0
        last = names.index(chosen.stop) if chosen.stop is not None else width - 1
        return list(range(width))[first : last + 1 : chosen.step]
    if isinstance(chosen, str):
        return [names.index(chosen)]
    listed = chosen if isinstance(chosen, slice) else np.asarray(chosen)
    if not isinstance(listed, slice) and listed.dtype.kind in "UO":
        return [names.index(str(name)) for name in listed]
    if not isinstance(listed, slice) and listed.size == 0:
        return []
    return [int(i) for i in np.atleast_1d(np.arange(width)[listed])]


def _take(block: Block, index: list[int]) -> Block:
    if isinstance(block, FrameBlock | NumberBlock | TextBlock):
        return block.take(index)
    raise ExportError("A column transformer gets a tensor.")


@convert_transformer.register(SimpleImputer)
def _impute(step: SimpleImputer, graph: Graph, block: Block) -> Block:
    if step.add_indicator:
        raise ExportError("SimpleImputer(add_indicator=True) has no compiled form.")
    if isinstance(block, TextBlock):
        return TextBlock(block.source, block.index, tuple(_fills(step, block)))
    if not _marks_nan(step.missing_values):
        raise ExportError("SimpleImputer with missing_values other than NaN has no compiled form.")
    block = materialize(graph, block)
    fill = np.asarray(step.statistics_, dtype=float)
    if np.isnan(fill).any() and not step.keep_empty_features:
        kept = np.flatnonzero(~np.isnan(fill))
        block, fill = block.take(kept), fill[kept]
    return block.filled(fill)


def _fills(step: SimpleImputer, block: TextBlock) -> list[str | None]:
    found: list[Any] = list(step.statistics_)
    return [
        old if old is not None else str(new) for old, new in zip(block.fill, found, strict=True)
    ]


def _marks_nan(value: Any) -> bool:
    return value is not None and value != value


@convert_transformer.register(StandardScaler)
def scale_standard(step: StandardScaler, graph: Graph, block: Block) -> Block:
    block = _unscaled(graph, block)
    shift = step.mean_ if step.with_mean else np.zeros(block.width)
    return block.scaled(shift, step.scale_ if step.with_std else np.ones(block.width))


@convert_transformer.register(RobustScaler)
def _robust(step: RobustScaler, graph: Graph, block: Block) -> Block:
    block = _unscaled(graph, block)
    shift = step.center_ if step.with_centering else np.zeros(block.width)
    return block.scaled(shift, step.scale_ if step.with_scaling else np.ones(block.width))


@convert_transformer.register(MaxAbsScaler)
def _max_abs(step: MaxAbsScaler, graph: Graph, block: Block) -> Block:
    if getattr(step, "clip", False):
        raise ExportError("MaxAbsScaler(clip=True) has no compiled form.")
    block = _unscaled(graph, block)
    return block.scaled(np.zeros(block.width), step.scale_)


@convert_transformer.register(MinMaxScaler)
def _min_max(step: MinMaxScaler, graph: Graph, block: Block) -> Block:
    name = graph.add("Mul", matrix(graph, block), graph.constant(step.scale_))
    name = graph.add("Add", name, graph.constant(step.min_))
    if step.clip:
        low, high = (graph.constant(float(end)) for end in step.feature_range)
        name = graph.add("Clip", name, low, high)
    return number_block(name, len(step.scale_))


@convert_transformer.register(SelectorMixin)
def _select(step: SelectorMixin, graph: Graph, block: Block) -> Block:
    return _take(block, np.flatnonzero(step.get_support()).tolist())


def convert_ufunc(function: Any, graph: Graph, name: str) -> str:
    """Apply one of NumPy's functions of one argument.

    Raises:
        ExportError: The function has no compiled form.
    """
    one = graph.constant(1.0)
    if function is np.log1p:
        return graph.add("Log", graph.add("Add", name, one))
    if function is np.expm1:
        return graph.add("Sub", graph.add("Exp", name), one)
    if function is np.square:
        return graph.add("Mul", name, name)
    if function is np.isnan:
        return graph.double(graph.add("IsNaN", name))
    if function not in OPERATIONS:
        raise ExportError(f"The function {function_name(function)} has no compiled form.")
    return graph.add(OPERATIONS[function], name)


def function_name(function: Any) -> str:
    return f"'{getattr(function, '__name__', function)}'"


def _unscaled(graph: Graph, block: Block) -> NumberBlock:
    """The block as numbers without recorded scaling; imputation may be recorded."""
    columns = as_numbers(graph, block)
    touched = bool(columns.shift.any() or (columns.scale != 1).any())
    return materialize(graph, columns) if touched else columns


Floats = npt.NDArray[np.float64]

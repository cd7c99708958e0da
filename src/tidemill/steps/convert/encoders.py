"""Encoders of categories, by comparison with the list of known categories."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.preprocessing import (
    Binarizer,
    KBinsDiscretizer,
    OneHotEncoder,
    OrdinalEncoder,
    TargetEncoder,
)

from tidemill.errors import ExportError
from tidemill.steps.convert.blocks import (
    MISSING,
    Block,
    NumberBlock,
    TextBlock,
    as_numbers,
    matrix,
    number_block,
)
from tidemill.steps.convert.dispatch import call_quietly, convert_transformer
from tidemill.steps.convert.graph import DOUBLE, Graph

Categories = list[Any]  # texts or numbers; None and NaN are a missing value
Floats = npt.NDArray[np.float64]
UNKNOWN = "\x1a?"  # a text that is in no list of categories


@convert_transformer.register(OneHotEncoder)
@convert_transformer.register(TargetEncoder)
def _encode(step: Any, graph: Graph, block: Block) -> Block:
    """The encoding as a sum: a constant, and the contribution of each column's category."""
    categories = [list(values) for values in step.categories_]
    hot = indicators(graph, block, categories)
    constant, adds = _contributions(step, categories)
    if not np.array_equal(adds, np.eye(*adds.shape)):
        hot = graph.product(hot, graph.constant(adds))
    if constant.any():
        hot = graph.add("Add", hot, graph.constant(constant))
    return number_block(hot, adds.shape[1], nullable=False)


@convert_transformer.register(OrdinalEncoder)
def _number(step: OrdinalEncoder, graph: Graph, block: Block) -> Block:
    """Each category's number; for missing and unknown categories, NaN or another number."""
    categories = [list(values) for values in step.categories_]
    owner = np.repeat(np.arange(len(categories)), [len(values) for values in categories])
    codes = _changes(_accepting_unknown(step), categories)[np.arange(len(owner)), owner]
    membership = np.eye(len(categories))[owner]
    numbered, blank = (membership * mask[:, None] for mask in (np.isfinite(codes), np.isnan(codes)))
    hot = indicators(graph, block, categories)
    found = graph.product(hot, graph.constant(membership * np.nan_to_num(codes)[:, None]))
    unknown = np.nan if step.unknown_value is None else float(step.unknown_value)
    found = graph.add("Where", _any(graph, hot, numbered), found, graph.constant(unknown))
    if blank.any():
        found = graph.add("Where", _any(graph, hot, blank), graph.constant(np.nan), found)
    return number_block(found, len(categories))


def _any(graph: Graph, hot: str, membership: Floats) -> str:
    """Whether a column has one of the categories marked with 1.0: bool [rows, columns]."""
    return graph.add("Greater", graph.product(hot, graph.constant(membership)), graph.constant(0.0))


@convert_transformer.register(KBinsDiscretizer)
def _bin(step: KBinsDiscretizer, graph: Graph, block: Block) -> Block:
    """Each value's bin: the number of inner edges at or below it."""
    edges = [np.asarray(values, float)[1:-1] for values in step.bin_edges_]
    width = len(edges)
    owner = np.repeat(np.arange(width), [len(values) for values in edges])
    if len(owner) == 0:
        raise ExportError("KBinsDiscretizer has only one bin.")
    spread = graph.columns(matrix(graph, block), owner.tolist())
    reached = graph.add("GreaterOrEqual", spread, graph.constant(np.concatenate(edges)))
    found = graph.product(graph.cast(reached, DOUBLE), graph.constant(np.eye(width)[owner]))
    if step.encode == "ordinal":
        return number_block(found, width, nullable=False)
    bins = [list(range(int(count))) for count in step.n_bins_]
    hot = indicators(graph, number_block(found, width, nullable=False), bins)
    return number_block(hot, sum(len(b) for b in bins), nullable=False)


@convert_transformer.register(Binarizer)
def _threshold(step: Binarizer, graph: Graph, block: Block) -> Block:
    limit = graph.constant(float(step.threshold))
    columns = as_numbers(graph, block)
    above = graph.add("Greater", matrix(graph, columns), limit)
    return number_block(graph.cast(above, DOUBLE), columns.width, nullable=False)


def indicators(graph: Graph, block: Block, categories: Sequence[Categories]) -> str:
    """1.0 if a column has a category, else 0.0: [rows, all categories of all columns]."""
    if isinstance(block, TextBlock):
        found, known = _codes(graph, block, categories)
    else:
        found, known = _values(graph, as_numbers(graph, block), categories)
    repeated = [i for i, values in enumerate(categories) for _ in values]
    if repeated != list(range(len(categories))):
        found = graph.columns(found, repeated)
    return graph.cast(graph.add("Equal", found, known), DOUBLE)


def _codes(graph: Graph, block: TextBlock, categories: Sequence[Categories]) -> tuple[str, str]:
    """Texts as integer codes; -1 if a text is in no list."""
    texts = sorted({str(v) for values in categories for v in values if not _missing(v)})
    code = {text: i for i, text in enumerate([MISSING, *texts])}
    fills = [code.get(MISSING if fill is None else fill, -1) for fill in block.fill]
    if len(set(fills)) == 1:
        code[MISSING] = fills[0]
    keys = {text: i for text, i in code.items() if i >= 0}
    name = graph.ml(
        "LabelEncoder", block.source, keys_strings=list(keys), values_int64s=list(keys.values()),
        default_int64=-1,
    )  # fmt: skip
    name = graph.columns(name, block.index.tolist())
    if len(set(fills)) > 1:
        is_missing = graph.add("Equal", name, graph.constant(0, np.int64))
        name = graph.add("Where", is_missing, graph.constant(fills, np.int64), name)
    listed = [code[MISSING if _missing(v) else str(v)] for values in categories for v in values]
    return name, graph.constant([listed], np.int64)


def _values(graph: Graph, block: NumberBlock, categories: Sequence[Categories]) -> tuple[str, str]:
    """Numbers unchanged; if NaN is a category, NaN becomes a number that no category has."""
    if any(isinstance(v, str) for values in categories for v in values):
        raise ExportError("An encoder of texts gets numbers.")
    known = [float(v) for values in categories for v in values if not _missing(v)]
    missing_code = max(known, default=0.0) + 1.0
    name = matrix(graph, block)
    if any(_missing(v) for values in categories for v in values):
        name = graph.add("Where", graph.add("IsNaN", name), graph.constant(missing_code), name)
    listed = [missing_code if _missing(v) else float(v) for values in categories for v in values]
    return name, graph.constant([listed], float)


def _contributions(step: Any, categories: Sequence[Categories]) -> tuple[Floats, Floats]:
    """The encoding of unknown values [outputs], and each category's change to it [categories,
    outputs].

    Both are found by calling the fitted encoder, whatever its options. Columns are encoded
    independently, so changing one column at a time is sufficient.
    """
    step = _accepting_unknown(step)
    first = [values[0] for values in categories]
    unknowns = [_with(first, i, _unknown_value(values)) for i, values in enumerate(categories)]
    encodings = _encoded(step, [first, *unknowns])
    adds = _changes(step, categories)
    if not (np.isfinite(encodings).all() and np.isfinite(adds).all()):
        raise ExportError(f"{type(step).__name__} encodes a category as NaN.")
    unknown = encodings[1:] - encodings[0]
    column = np.repeat(np.arange(len(categories)), [len(values) for values in categories])
    return encodings[0] + unknown.sum(axis=0), adds - encodings[0] - unknown[column]


def _changes(step: Any, categories: Sequence[Categories]) -> Floats:
    """The encodings of every category of every column, with the other columns at their first
    category: [categories, outputs]."""
    first = [values[0] for values in categories]
    return _encoded(
        step, [_with(first, i, value) for i, values in enumerate(categories) for value in values]
    )


def _encoded(step: Any, rows: list[list[Any]]) -> Floats:
    kind = object if any(isinstance(value, str) for row in rows for value in row) else float
    return np.asarray(call_quietly(step.transform, np.array(rows, dtype=kind)), dtype=float)


def _accepting_unknown(step: Any) -> Any:
    """A copy that encodes unknown categories as zeros if the original raises an error."""
    step = copy.copy(step)
    if isinstance(step, OneHotEncoder):
        step.sparse_output = False
    if getattr(step, "handle_unknown", "ignore") == "error" and isinstance(step, OneHotEncoder):
        step.handle_unknown = "ignore"
    return step


def _with(row: list[Any], column: int, value: Any) -> list[Any]:
    return [*row[:column], value, *row[column + 1 :]]


def _unknown_value(values: Categories) -> Any:
    if any(isinstance(value, str) for value in values):
        return UNKNOWN
    return max((float(v) for v in values if not _missing(v)), default=0.0) + 2.0


def _missing(value: Any) -> bool:
    return value is None or value != value

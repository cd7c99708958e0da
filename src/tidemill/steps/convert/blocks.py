"""Blocks: the columns that flow between the steps of a model while it is converted.

Scaling and imputation are recorded but not computed yet, so that a linear model can fold them into
its coefficients, and imputing a column without missing values costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.errors import ExportError
from tidemill.steps.convert.graph import Graph

#: A missing text in the converted model's string input: the control character SUBSTITUTE.
MISSING = "\x1a"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NumberBlock:
    """Columns [rows, width] of float64: (columns `index` of `source`, filled - shift) / scale.

    Attributes:
        source: A matrix in the graph [rows, total].
        nullable: Whether each column may contain NaN.
        fill: What replaces NaN; NaN if nothing does.
    """

    source: str
    total: int
    index: npt.NDArray[np.intp]
    nullable: npt.NDArray[np.bool_]
    fill: Floats
    shift: Floats
    scale: Floats

    @property
    def width(self) -> int:
        return len(self.index)

    @property
    def bare(self) -> bool:
        """Whether no imputation or scaling has been recorded."""
        return bool(np.isnan(self.fill).all() and not self.shift.any() and (self.scale == 1).all())

    def take(self, columns: Any) -> NumberBlock:
        picked = {n: getattr(self, n)[columns] for n in ("index", "nullable", *_ARITHMETIC)}
        return replace(self, **picked)

    def filled(self, values: Floats) -> NumberBlock:
        """Record an imputation by values [width]; NaN leaves a column as it is."""
        fill = np.where(self.nullable, values, np.nan)
        return replace(self, fill=fill, nullable=self.nullable & np.isnan(fill))

    def scaled(self, shift: Floats, scale: Floats) -> NumberBlock:
        return replace(self, shift=np.asarray(shift, float), scale=np.asarray(scale, float))


_ARITHMETIC = ("fill", "shift", "scale")


@dataclass(frozen=True)
class TextBlock:
    """Columns [rows, width] of text: columns `index` of the string matrix `source`.

    Attributes:
        fill: What replaces a missing text; None if nothing does.
    """

    source: str
    index: npt.NDArray[np.intp]
    fill: tuple[str | None, ...]

    @property
    def width(self) -> int:
        return len(self.index)

    def take(self, columns: Any) -> TextBlock:
        positions = np.arange(self.width)[columns]
        return replace(self, index=self.index[columns], fill=tuple(self.fill[i] for i in positions))


@dataclass(frozen=True)
class FrameBlock:
    """Named columns of both types, as in a request."""

    names: tuple[str, ...]
    parts: tuple[NumberBlock | TextBlock, ...]

    @property
    def width(self) -> int:
        return len(self.names)

    def take(self, columns: Any) -> Block:
        """Select columns; the block has one type if they all have."""
        names = tuple(self.names[i] for i in columns)
        return join_columns(names, [self.parts[i] for i in columns])


@dataclass(frozen=True)
class TensorBlock:
    """One array [rows, *shape] of float32 or float64, as in a request."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class DateBlock:
    """Columns [rows, width] of NumPy's datetime64: a float64 matrix of counts since 1970.

    Attributes:
        unit: "s", "D", "M" or "Y".
    """

    source: str
    width: int
    unit: str


Block = DateBlock | NumberBlock | TextBlock | FrameBlock | TensorBlock


def number_block(source: str, width: int, *, nullable: bool = True) -> NumberBlock:
    """A block of all columns of a matrix in the graph."""
    return NumberBlock(
        source=source,
        total=width,
        index=np.arange(width),
        nullable=np.full(width, nullable),
        fill=np.full(width, np.nan),
        shift=np.zeros(width),
        scale=np.ones(width),
    )


def join_columns(names: tuple[str, ...], parts: Sequence[NumberBlock | TextBlock]) -> Block:
    """Combine single columns to one block, without adding an operation."""
    numbers = [part for part in parts if isinstance(part, NumberBlock)]
    texts = [part for part in parts if isinstance(part, TextBlock)]
    if numbers and not texts:
        return _one_source(numbers) or FrameBlock(names, tuple(parts))
    if texts and not numbers:
        index = np.concatenate([part.index for part in texts])
        return TextBlock(texts[0].source, index, tuple(f for part in texts for f in part.fill))
    return FrameBlock(names, tuple(parts))


def concatenate(graph: Graph, blocks: Sequence[NumberBlock]) -> NumberBlock:
    """Combine blocks of numbers; adds no operation if they have the same source."""
    merged = _one_source(blocks)
    if merged is not None:
        return merged
    name = graph.stack([matrix(graph, block) for block in blocks])
    return number_block(name, sum(block.width for block in blocks))


def _one_source(blocks: Sequence[NumberBlock]) -> NumberBlock | None:
    if len({block.source for block in blocks}) != 1:
        return None
    names = ("index", "nullable", *_ARITHMETIC)
    merged: dict[str, Any] = {
        name: np.concatenate([getattr(block, name) for block in blocks]) for name in names
    }
    return replace(blocks[0], **merged)


def as_numbers(graph: Graph, block: Block) -> NumberBlock:
    """Return the block as a block of numbers.

    Raises:
        ExportError: It contains texts.
    """
    if isinstance(block, NumberBlock):
        return block
    if isinstance(block, TensorBlock):
        width = int(np.prod(block.shape))
        return number_block(
            graph.double(graph.reshape(block.name, -1, width)), width, nullable=False
        )
    if isinstance(block, FrameBlock) and all(isinstance(part, NumberBlock) for part in block.parts):
        return concatenate(graph, [p for p in block.parts if isinstance(p, NumberBlock)])
    raise ExportError("A step that takes numbers gets texts.")


def matrix(graph: Graph, block: Block) -> str:
    """Compute the block; returns the name of a float64 matrix [rows, width]."""
    columns = as_numbers(graph, block)
    name = columns.source
    if not np.array_equal(columns.index, np.arange(columns.total)):
        name = graph.columns(name, columns.index.tolist())
    if not np.isnan(columns.fill).all():
        name = _filled(graph, name, columns.fill)
    if columns.shift.any():
        name = graph.add("Sub", name, graph.constant(columns.shift))
    if (columns.scale != 1).any():
        name = graph.add("Div", name, graph.constant(columns.scale))
    return name


def materialize(graph: Graph, block: Block) -> NumberBlock:
    """Compute the block; returns one without recorded imputation and scaling."""
    columns = as_numbers(graph, block)
    if columns.bare:
        return columns
    return replace(
        number_block(matrix(graph, columns), columns.width), nullable=columns.nullable.copy()
    )


def _filled(graph: Graph, name: str, fill: Floats) -> str:
    return graph.add("Where", graph.add("IsNaN", name), graph.constant(fill), name)

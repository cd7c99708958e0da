"""Transformers that multiply columns or apply a power transform."""

from __future__ import annotations

from itertools import chain, repeat
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.preprocessing import PolynomialFeatures, PowerTransformer

from tidemill.errors import ExportError
from tidemill.steps.convert.blocks import Block, as_numbers, matrix, number_block
from tidemill.steps.convert.columns import scale_standard
from tidemill.steps.convert.dispatch import convert_transformer
from tidemill.steps.convert.graph import Graph

Floats = npt.NDArray[np.float64]


@convert_transformer.register(PolynomialFeatures)
def _products(step: PolynomialFeatures, graph: Graph, block: Block) -> Block:
    """Multiply columns; products of fewer columns are padded with a column of ones."""
    columns = as_numbers(graph, block)
    ones = number_block(_ones(graph, matrix(graph, columns)), 1, nullable=False)
    wide = graph.stack([matrix(graph, columns), ones.source])
    factors = [_factors(row, columns.width) for row in step.powers_]
    longest = max(len(row) for row in factors)
    padded = [row + [columns.width] * (longest - len(row)) for row in factors]
    name = graph.columns(wide, [row[0] for row in padded])
    for position in range(1, longest):
        name = graph.add("Mul", name, graph.columns(wide, [row[position] for row in padded]))
    return number_block(name, len(padded), nullable=False)


def _factors(powers: Any, width: int) -> list[int]:
    """The columns of one product, repeated by power; the column of ones for none."""
    found = chain.from_iterable(repeat(i, int(power)) for i, power in enumerate(powers))
    return list(found) or [width]


def _ones(graph: Graph, name: str) -> str:
    """A column of 1.0 with as many rows as the matrix."""
    first = graph.columns(name, [0])
    zero = graph.add("Sub", first, first)
    return graph.add("Add", zero, graph.constant(1.0))


@convert_transformer.register(PowerTransformer)
def _power(step: PowerTransformer, graph: Graph, block: Block) -> Block:
    """Yeo and Johnson, "A new family of power transformations", Biometrika 87, 2000; Box and Cox,
    "An analysis of transformations", 1964."""
    columns = as_numbers(graph, block)
    name, power = matrix(graph, columns), np.asarray(step.lambdas_, float)
    if not np.isfinite(power).all():
        raise ExportError("PowerTransformer has a power that is not finite.")
    zero = graph.constant(0.0)
    if step.method == "box-cox":
        bent = _box_cox(graph, graph.add("Log", name), power)
    else:
        up = _box_cox(graph, _log1p(graph, graph.add("Max", name, zero)), power)
        mirrored = graph.add("Max", graph.add("Neg", name), zero)
        down = graph.add("Neg", _box_cox(graph, _log1p(graph, mirrored), 2 - power))
        bent = graph.add("Where", graph.add("GreaterOrEqual", name, zero), up, down)
    made = number_block(bent, columns.width)
    return scale_standard(step._scaler, graph, made) if step.standardize else made


def _box_cox(graph: Graph, logarithm: str, power: Floats) -> str:
    """(x ** power - 1) / power, computed from log x; log x itself if the power is 0."""
    flat = np.abs(power) < np.spacing(1.0)
    divisor = np.where(flat, 1.0, power)
    risen = graph.add("Exp", graph.add("Mul", logarithm, graph.constant(power)))
    bent = graph.add("Sub", risen, graph.constant(1.0))
    bent = graph.add("Div", bent, graph.constant(divisor))
    return graph.add("Where", graph.constant(flat), logarithm, bent) if flat.any() else bent


def _log1p(graph: Graph, name: str) -> str:
    return graph.add("Log", graph.add("Add", name, graph.constant(1.0)))

"""Transformers that multiply columns, or apply a function, a method or a power transform."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, pairwise, repeat
from operator import methodcaller
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, PowerTransformer

from tidemill.errors import ExportError
from tidemill.steps.convert.blocks import (
    Block,
    DateBlock,
    TextBlock,
    as_numbers,
    matrix,
    number_block,
)
from tidemill.steps.convert.columns import convert_ufunc, function_name, scale_standard
from tidemill.steps.convert.dispatch import convert_transformer
from tidemill.steps.convert.graph import DOUBLE, INT64, Graph

Floats = npt.NDArray[np.float64]


#: Methods of an array with a number, and the equivalent ONNX operations.
ARITHMETIC = {
    "__add__": "Add", "__sub__": "Sub", "__mul__": "Mul", "__truediv__": "Div",
    "__floordiv__": "Div", "__mod__": "Div",
}  # fmt: skip
#: Units of datetime64, from fine to coarse, and how many make one of the next.
UNITS = ("s", "D", "M", "Y")
SIZES = {"s": 86_400.0, "M": 12.0}


@convert_transformer.register(FunctionTransformer)
def _function(step: FunctionTransformer, graph: Graph, block: Block) -> Block:
    if step.func is None:
        return block
    if isinstance(step.func, methodcaller):
        return _method(step.func, graph, block)
    columns = as_numbers(graph, block)
    if step.kw_args or not isinstance(step.func, np.ufunc):
        raise ExportError(f"The function {function_name(step.func)} has no compiled form.")
    return number_block(convert_ufunc(step.func, graph, matrix(graph, columns)), columns.width)


def _method(called: Any, graph: Graph, block: Block) -> Block:
    """Convert a method of pandas, astype("object") or fillna(text), or of a NumPy array: a cast
    from or to dates, or arithmetic with a number."""
    arguments: tuple[Any, ...] = called.__reduce__()[1]
    if arguments == ("astype", "object"):
        return block
    if isinstance(block, TextBlock) and arguments[0] == "fillna" and isinstance(arguments[1], str):
        fill = tuple(arguments[1] if old is None else old for old in block.fill)
        return TextBlock(block.source, block.index, fill)
    if len(arguments) == 2 and arguments[0] == "astype":
        return _cast(graph, block, str(arguments[1]))
    if len(arguments) == 2 and arguments[0] == "round" and isinstance(arguments[1], int):
        columns = as_numbers(graph, block)
        scale = graph.constant(10.0 ** arguments[1])
        whole = graph.add("Round", graph.add("Mul", matrix(graph, columns), scale))
        return number_block(graph.add("Div", whole, scale), columns.width)
    if len(arguments) == 2 and arguments[0] in ARITHMETIC and isinstance(arguments[1], float):
        columns = as_numbers(graph, block)
        name = _arithmetic(graph, arguments[0], matrix(graph, columns), arguments[1])
        return number_block(name, columns.width)
    raise ExportError(f"FunctionTransformer({called!r}) has no compiled form.")


def _arithmetic(graph: Graph, method: str, name: str, number: float) -> str:
    if method == "__mod__":
        whole = graph.add("Mul", _quotient(graph, name, number), graph.constant(number))
        return graph.add("Sub", name, whole)
    found = graph.add(ARITHMETIC[method], name, graph.constant(number))
    return graph.add("Floor", found) if method == "__floordiv__" else found


def _quotient(graph: Graph, name: str, number: float) -> str:
    """The quotient rounded down. It is exact for whole numbers below 2**53 / number."""
    return graph.add("Floor", graph.add("Div", name, graph.constant(number)))


def _cast(graph: Graph, block: Block, to: str) -> Block:
    """NumPy's casts: from numbers to datetime64, to a coarser unit of it, and to float64."""
    if isinstance(block, DateBlock):
        if to == "float64":
            return number_block(block.source, block.width)
        unit = to.removeprefix("datetime64[").removesuffix("]")
        if unit in UNITS and UNITS.index(unit) >= UNITS.index(block.unit):
            return replace(block, source=_coarser(graph, block, unit), unit=unit)
    elif to == "datetime64[s]":
        columns = as_numbers(graph, block)
        whole = graph.cast(graph.cast(matrix(graph, columns), INT64), DOUBLE)
        return DateBlock(whole, columns.width, "s")
    raise ExportError(f"astype({to!r}) has no compiled form.")


def _coarser(graph: Graph, block: DateBlock, unit: str) -> str:
    name = block.source
    for finer, coarser in pairwise(UNITS[UNITS.index(block.unit) : UNITS.index(unit) + 1]):
        name = _months(graph, name) if coarser == "M" else _quotient(graph, name, SIZES[finer])
    return name


def _months(graph: Graph, days: str) -> str:
    """Months since January 1970 of days since its first, in the proleptic Gregorian calendar.

    Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`: years begin in
    March, so that the leap day is a year's last, and 400 years are an era of 146,097 days.
    """

    def combine(op: str, left: str, right: str | float) -> str:
        return graph.add(op, left, right if isinstance(right, str) else graph.constant(right))

    shifted = combine("Add", days, 719_468.0)
    era = _quotient(graph, shifted, 146_097.0)
    day = combine("Sub", shifted, combine("Mul", era, 146_097.0))
    leaps = combine("Sub", _quotient(graph, day, 36_524.0), _quotient(graph, day, 1_460.0))
    leaps = combine("Sub", leaps, _quotient(graph, day, 146_096.0))
    year = _quotient(graph, combine("Add", day, leaps), 365.0)
    earlier = combine("Sub", _quotient(graph, year, 4.0), _quotient(graph, year, 100.0))
    first = combine("Add", combine("Mul", year, 365.0), earlier)
    fifths = combine("Add", combine("Mul", combine("Sub", day, first), 5.0), 2.0)
    years = combine("Add", combine("Mul", era, 400.0), combine("Sub", year, 1_970.0))
    months = combine("Add", combine("Mul", years, 12.0), _quotient(graph, fifths, 153.0))
    return combine("Add", months, 2.0)


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

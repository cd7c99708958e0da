"""Columns boiled down to counts: what a profile keeps of the whole training table.

A numeric column becomes at most 200 cells, each with the exact number of training values in it.
Because the counts are exact, a later window is compared with *all* training rows, not with a small
sample of them: the noise of the reference stays what the training set's own size makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

#: Cells of a numeric sketch. 200 lose less than a thousandth of a rank test's power.
BINS = 200

#: Texts a categorical sketch keeps by name; rarer ones are counted together as `other`.
CATEGORIES = 500


class NumericHistogram(msgspec.Struct, frozen=True):
    """The distribution of a numeric column.

    Cell 0 holds the values up to `edges[0]`, cell i those above `edges[i - 1]` up to `edges[i]`,
    the last those above every edge: `len(counts) == len(edges) + 1`. Missing values are in
    `missing` only, and so are not in `counts`, `mean` or `std`.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    minimum: float
    maximum: float
    mean: float
    std: float
    missing: int = 0

    @property
    def rows(self) -> int:
        """Values counted, without the missing ones."""
        return sum(self.counts)


class CategoryHistogram(msgspec.Struct, frozen=True):
    """The distribution of a column of texts, booleans or labels.

    `counts` by text, most frequent first; `other` is the number of rows of texts too rare to be
    named, `singletons` the number of texts that occur once (what makes new texts to be expected).
    """

    counts: dict[str, int]
    other: int = 0
    singletons: int = 0
    missing: int = 0

    @property
    def rows(self) -> int:
        """Values counted, without the missing ones."""
        return sum(self.counts.values()) + self.other


Histogram = NumericHistogram | CategoryHistogram


def numeric_histogram(values: Any, cells: int = BINS) -> NumericHistogram:
    """The sketch of a one-dimensional numeric column; NaN and None count as missing."""
    array = as_floats(values)
    present = np.sort(array[~np.isnan(array)])
    finite = present[np.isfinite(present)]
    edges = _edges(finite, cells)
    mean, std = _mean_and_std(finite)
    empty = finite.size == 0
    return NumericHistogram(
        edges=tuple(edges.tolist()),
        counts=tuple(count_bins(present, edges).tolist()),
        minimum=0.0 if empty else float(finite[0]),
        maximum=0.0 if empty else float(finite[-1]),
        mean=mean,
        std=std,
        missing=int(array.size - present.size),
    )


def category_histogram(values: Any, keep: int = CATEGORIES) -> CategoryHistogram:
    """The sketch of a one-dimensional column of texts, booleans or labels."""
    counts, missing = count_categories(values)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return CategoryHistogram(
        counts=dict(ordered[:keep]),
        other=sum(count for _, count in ordered[keep:]),
        singletons=sum(1 for count in counts.values() if count == 1),
        missing=missing,
    )


def count_bins(present: Floats, edges: Floats) -> Counts:
    """How many of the *sorted*, present values lie in each of `len(edges) + 1` cells."""
    below = np.searchsorted(present, edges, side="right")
    return np.diff(below, prepend=0, append=present.size).astype(np.int64)


def count_categories(values: Any) -> tuple[dict[str, int], int]:
    """Rows by category text, and the number of missing rows."""
    series = pd.Series(values)
    counted = series.value_counts(dropna=True, sort=False)
    merged: dict[str, int] = {}
    for value, count in counted.items():
        text = category_text(value)
        merged[text] = merged.get(text, 0) + int(count)
    return merged, int(series.size - counted.sum())


def category_text(value: Any) -> str:
    """How a category is written in a profile: True and 1.0 read the same wherever they come from.

    A nullable boolean arrives as 1.0 beside NaN, a whole label as 1 or 1.0.
    """
    if isinstance(value, bool | np.bool_):
        return "1" if value else "0"
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def as_floats(values: Any) -> Floats:
    """A one-dimensional float64 array; None, NA and what is no number become NaN."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        numbers = pd.to_numeric(pd.Series(values), errors="coerce")
        array = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.ascontiguousarray(array, dtype=np.float64)


def read_histogram(entry: Mapping[str, Any]) -> Histogram:
    """A sketch as a profile holds it; one with `edges` is numeric."""
    if "edges" in entry:
        return msgspec.convert(dict(entry), NumericHistogram)
    return msgspec.convert(dict(entry), CategoryHistogram)


def _mean_and_std(finite: Floats) -> tuple[float, float]:
    """Scaled first, so that the squares of very large values do not overflow."""
    scale = float(np.abs(finite).max(initial=0.0))
    if scale == 0.0:
        return 0.0, 0.0
    scaled = finite / scale
    return float(scaled.mean() * scale), float(scaled.std() * scale)


def _edges(ordered: Floats, cells: int) -> Floats:
    """Cuts between neighbouring distinct values: around each of few, at the quantiles of many.

    Cutting between values, not at them, keeps ties whole and favours neither side of a cut.
    """
    starts = np.flatnonzero(np.diff(ordered) > 0) + 1
    if starts.size >= cells:
        starts = _quantile_cuts(ordered, cells)
    return np.unique(_short_between(ordered[starts - 1], ordered[starts]))


def _quantile_cuts(ordered: Floats, cells: int) -> Counts:
    """Where the runs at the quantile ranks start, and where the long ones end."""
    ranks = np.linspace(0, ordered.size, cells + 1).astype(np.int64)[1:-1]
    starts = np.searchsorted(ordered, ordered[ranks], side="left")
    ends = np.searchsorted(ordered, ordered[ranks], side="right")
    frequent = ends - starts > ordered.size / cells
    cuts = np.unique(np.concatenate([starts, ends[frequent]]))
    return cuts[(cuts > 0) & (cuts < ordered.size)]


def _short_between(low: Floats, high: Floats) -> Floats:
    """The shortest decimals e with low <= e < high, near the middle: they keep profiles small."""
    middle = low + (high - low) / 2
    chosen = np.where((middle >= low) & (middle < high), middle, low)
    for digits in range(8, 2, -1):
        rounded = np.array([float(f"{value:.{digits}g}") for value in middle])
        near = np.abs(rounded - middle) <= (high - low) / 4
        chosen = np.where((rounded >= low) & (rounded < high) & near, rounded, chosen)
    return np.asarray(chosen, dtype=np.float64)

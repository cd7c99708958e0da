"""Histograms of training columns, as a profile stores them.

A numeric column becomes at most 200 bins with exact counts. Because the counts are exact, a window
is later compared with *all* training rows and not with a small sample, so the noise of the
reference is that of the whole training set.
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

#: Bins of a numeric histogram. 200 cost less than a thousandth of a rank test's power.
BINS = 200

#: Categories that a histogram names; rarer ones are counted together as `other`.
CATEGORIES = 500


class NumericHistogram(msgspec.Struct, frozen=True):
    """The distribution of a numeric column.

    Bin 0 holds the values up to `edges[0]`, bin i those above `edges[i - 1]` up to `edges[i]`, the
    last bin those above every edge: `len(counts) == len(edges) + 1`. Missing values are counted in
    `missing` only, not in `counts`, `mean` or `std`.
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
        """Number of values, without missing ones."""
        return sum(self.counts)


class CategoryHistogram(msgspec.Struct, frozen=True):
    """The distribution of a column of texts, booleans or labels.

    `counts` are by category, most frequent first; `other` counts the rows of categories too rare
    to be named; `singletons` is the number of categories that occur once, from which the number of
    new categories to expect follows.
    """

    counts: dict[str, int]
    other: int = 0
    singletons: int = 0
    missing: int = 0

    @property
    def rows(self) -> int:
        """Number of values, without missing ones."""
        return sum(self.counts.values()) + self.other


Histogram = NumericHistogram | CategoryHistogram


def numeric_histogram(values: Any, bins: int = BINS) -> NumericHistogram:
    """Make the histogram of a numeric column [rows]; NaN and None count as missing."""
    array = as_floats(values)
    present = np.sort(array[~np.isnan(array)])
    finite = present[np.isfinite(present)]
    edges = _edges(finite, bins)
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
    """Make the histogram of a column [rows] of texts, booleans or labels."""
    counts, missing = count_categories(values)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return CategoryHistogram(
        counts=dict(ordered[:keep]),
        other=sum(count for _, count in ordered[keep:]),
        singletons=sum(1 for count in counts.values() if count == 1),
        missing=missing,
    )


def count_bins(present: Floats, edges: Floats) -> Counts:
    """Count the values, sorted and none missing, in each of `len(edges) + 1` bins."""
    below = np.searchsorted(present, edges, side="right")
    return np.diff(below, prepend=0, append=present.size).astype(np.int64)


def count_categories(values: Any) -> tuple[dict[str, int], int]:
    """Count rows by category, and missing ones."""
    series = pd.Series(values)
    counted = series.value_counts(dropna=True, sort=False)
    merged: dict[str, int] = {}
    for value, count in counted.items():
        text = category_text(value)
        merged[text] = merged.get(text, 0) + int(count)
    return merged, int(series.size - counted.sum())


def category_text(value: Any) -> str:
    """Return a category as a profile spells it, so that True, 1 and 1.0 are the same category.

    A nullable boolean arrives as 1.0 beside NaN, an integer label as 1 or 1.0.
    """
    if isinstance(value, bool | np.bool_):
        return "1" if value else "0"
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def as_floats(values: Any) -> Floats:
    """Convert to a float64 array [rows]; None, NA and values that are not numbers become NaN."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        numbers = pd.to_numeric(pd.Series(values), errors="coerce")
        array = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.ascontiguousarray(array, dtype=np.float64)


def read_histogram(entry: Mapping[str, Any]) -> Histogram:
    """Read a histogram from a profile; one with `edges` is numeric."""
    if "edges" in entry:
        return msgspec.convert(dict(entry), NumericHistogram)
    return msgspec.convert(dict(entry), CategoryHistogram)


def _mean_and_std(finite: Floats) -> tuple[float, float]:
    """Mean and standard deviation of scaled values, as squares of large ones may overflow."""
    scale = float(np.abs(finite).max(initial=0.0))
    if scale == 0.0:
        return 0.0, 0.0
    scaled = finite / scale
    return float(scaled.mean() * scale), float(scaled.std() * scale)


def _edges(ordered: Floats, bins: int) -> Floats:
    """Edges between neighbouring distinct values: around each of few, at the quantiles of many.

    An edge between values, not at one, keeps ties in one bin.
    """
    starts = np.flatnonzero(np.diff(ordered) > 0) + 1
    if starts.size >= bins:
        starts = _quantile_cuts(ordered, bins)
    return np.unique(_short_between(ordered[starts - 1], ordered[starts]))


def _quantile_cuts(ordered: Floats, bins: int) -> Counts:
    """Where the runs of equal values at the quantile ranks start, and where long ones end."""
    ranks = np.linspace(0, ordered.size, bins + 1).astype(np.int64)[1:-1]
    starts = np.searchsorted(ordered, ordered[ranks], side="left")
    ends = np.searchsorted(ordered, ordered[ranks], side="right")
    frequent = ends - starts > ordered.size / bins
    cuts = np.unique(np.concatenate([starts, ends[frequent]]))
    return cuts[(cuts > 0) & (cuts < ordered.size)]


def _short_between(low: Floats, high: Floats) -> Floats:
    """The shortest decimals e with low <= e < high near the middle, to keep profiles small."""
    middle = low + (high - low) / 2
    chosen = np.where((middle >= low) & (middle < high), middle, low)
    for digits in range(8, 2, -1):
        rounded = np.array([float(f"{value:.{digits}g}") for value in middle])
        near = np.abs(rounded - middle) <= (high - low) / 4
        chosen = np.where((rounded >= low) & (rounded < high) & near, rounded, chosen)
    return np.asarray(chosen, dtype=np.float64)

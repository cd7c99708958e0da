"""Training and window distributions over the same few bins, for pictures of drift.

They are small enough to store with every check, so a picture can be drawn after the rows are gone.
"""

from __future__ import annotations

import msgspec
import numpy as np

from tidemill.steps.drift.histogram import Counts, Floats, NumericHistogram, count_bins
from tidemill.steps.drift.two_sample import shares

#: Most bins in a picture.
PICTURE_BINS = 24


class PictureBins(msgspec.Struct, frozen=True):
    """Shares of training rows and of window rows in each bin.

    Numeric columns have `edges`, one more than bins; the widths are unequal and the outermost edges
    are the smallest and largest value of both samples. Other columns have `labels`, one for a bin.
    """

    reference: tuple[float, ...] = ()
    window: tuple[float, ...] = ()
    edges: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()


def numeric_picture_bins(histogram: NumericHistogram, present: Floats) -> PictureBins:
    """Make bins from the histogram edges nearest to an even grid, so that both counts are exact.

    Args:
        histogram: The column in training.
        present: The window's values, sorted, none missing.
    """
    if present.size == 0 or histogram.rows == 0:
        return PictureBins()
    edges = np.asarray(histogram.edges)
    chosen = _even(edges)
    below = np.cumsum(histogram.counts)[chosen]
    reference = np.diff(below, prepend=0, append=histogram.rows)
    finite = present[np.isfinite(present)]
    low = float(finite.min(initial=histogram.minimum))
    high = float(finite.max(initial=histogram.maximum))
    return PictureBins(
        reference=_rounded(shares(reference)),
        window=_rounded(shares(count_bins(present, edges[chosen]))),
        edges=tuple(float(f"{edge:.6g}") for edge in (low, *edges[chosen], high)),
    )


def category_picture_bins(names: list[str], reference: Counts, window: Counts) -> PictureBins:
    """Make bins of the categories that are most frequent in both samples together."""
    order = np.argsort(-(shares(reference) + shares(window)), kind="stable")[:PICTURE_BINS]
    return PictureBins(
        reference=_rounded(shares(reference)[order]),
        window=_rounded(shares(window)[order]),
        labels=tuple(names[i] for i in order),
    )


def _even(edges: Floats) -> Counts:
    """Positions of at most PICTURE_BINS - 1 edges, spread as evenly over the values as possible."""
    if edges.size < PICTURE_BINS:
        return np.arange(edges.size)
    grid = np.linspace(edges[0], edges[-1], PICTURE_BINS - 1)
    after = np.clip(np.searchsorted(edges, grid), 1, edges.size - 1)
    nearer_before = grid - edges[after - 1] < edges[after] - grid
    return np.unique(after - nearer_before)


def _rounded(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), 5) for value in values)

"""Training and window side by side over the same few bars: what a picture of drift is drawn from.

Small enough to keep with every check, so that a picture can be drawn long after the rows are gone.
"""

from __future__ import annotations

import msgspec
import numpy as np

from tidemill.steps.drift.histogram import Counts, Floats, NumericHistogram, count_bins
from tidemill.steps.drift.two_sample import shares

#: At most so many bars a picture.
PICTURE_BINS = 24


class PictureBins(msgspec.Struct, frozen=True):
    """Shares of training rows and of window rows.

    Numeric columns have `edges` (one more than bars, of unequal width; the outermost are the
    smallest and the largest value seen), others have `labels` (one a bar).
    """

    reference: tuple[float, ...] = ()
    window: tuple[float, ...] = ()
    edges: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()


def numeric_picture_bins(sketch: NumericHistogram, present: Floats) -> PictureBins:
    """Bars over those edges of the sketch that lie nearest an even grid: both counts are exact.

    Args:
        sketch: The column in training.
        present: The window's values, sorted, none missing.
    """
    if present.size == 0 or sketch.rows == 0:
        return PictureBins()
    edges = np.asarray(sketch.edges)
    chosen = _even(edges)
    below = np.cumsum(sketch.counts)[chosen]
    reference = np.diff(below, prepend=0, append=sketch.rows)
    finite = present[np.isfinite(present)]
    low = float(finite.min(initial=sketch.minimum))
    high = float(finite.max(initial=sketch.maximum))
    return PictureBins(
        reference=_rounded(shares(reference)),
        window=_rounded(shares(count_bins(present, edges[chosen]))),
        edges=tuple(float(f"{edge:.6g}") for edge in (low, *edges[chosen], high)),
    )


def category_picture_bins(names: list[str], reference: Counts, window: Counts) -> PictureBins:
    """Bars of the most frequent categories of both together."""
    order = np.argsort(-(shares(reference) + shares(window)), kind="stable")[:PICTURE_BINS]
    return PictureBins(
        reference=_rounded(shares(reference)[order]),
        window=_rounded(shares(window)[order]),
        labels=tuple(names[i] for i in order),
    )


def _even(edges: Floats) -> Counts:
    """Positions of at most BARS - 1 edges, spread as evenly over the values as they come."""
    if edges.size < PICTURE_BINS:
        return np.arange(edges.size)
    grid = np.linspace(edges[0], edges[-1], PICTURE_BINS - 1)
    after = np.clip(np.searchsorted(edges, grid), 1, edges.size - 1)
    nearer_before = grid - edges[after - 1] < edges[after] - grid
    return np.unique(after - nearer_before)


def _rounded(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), 5) for value in values)

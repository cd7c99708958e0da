"""Training windows: models are fitted on several ranges of rows, and the newest rows decide.

How much of the past still applies is unknown. After an abrupt change only the rows since are right;
where nothing changed, all rows are best; where old conditions return, old rows are useful. So the
window is searched like a hyperparameter, over a few sizes that are far apart. See decision 101.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RowPositions = NDArray[np.int64]

ALL, SINCE, AGED = "all", "since", "aged"

#: A window is left out unless its size is at most this share of the next larger one.
MAX_SIZE_RATIO = 0.8
MIN_ROWS = 50


@dataclass(frozen=True)
class TrainingWindow:
    """Rows `start:end` of a table in order of time; in an aged window, old rows are thinned out.

    Args:
        name: `all`, `last-5000`, `since` (the change) or `aged`.
        start: The first row.
        end: The row after the last.
        half_life: Age in rows at which a row is kept with probability one half; None keeps all.
    """

    name: str
    start: int
    end: int
    half_life: float | None = None

    def rows(self, seed: int = 0) -> RowPositions:
        """Return the positions of the rows, in order.

        A row of age a is kept with probability 2 ** (-a / half_life). Thinning has the effect of
        weights by age, works with estimators that take no weights, and saves time.
        """
        found = np.arange(self.start, self.end, dtype=np.int64)
        if self.half_life is None:
            return found
        probabilities = np.exp2(-(self.end - 1 - found) / self.half_life)
        kept = np.random.default_rng(seed).random(found.size) < probabilities
        return np.asarray(found[kept])


def training_windows(
    rows: int,
    *,
    since: int | None = None,
    lasts: Sequence[int] = (10_000, 5_000, 2_000),
    half_life: float | None = 2_000,
    fewest: int = MIN_ROWS,
) -> tuple[TrainingWindow, ...]:
    """Choose the training windows, the largest first.

    Args:
        rows: Number of rows to train on.
        since: First row after the change, where one is known; replaces a window of nearly the same
            size.
        lasts: Sizes of windows of the newest rows.
        half_life: Half-life of the aged window; None, or a short table, leaves it out.
        fewest: Rows of the smallest window; only `all` may have fewer.
    """
    changed = rows - since if since is not None and fewest <= rows - since < rows else None
    sizes = {rows: ALL}
    for size in sorted(set(lasts), reverse=True):
        near = changed is not None and MAX_SIZE_RATIO <= size / changed <= 1 / MAX_SIZE_RATIO
        if fewest <= size <= MAX_SIZE_RATIO * min(sizes) and not near:
            sizes[size] = f"last-{size}"
    if changed is not None:
        sizes[changed] = SINCE
    found = [TrainingWindow(sizes[size], rows - size, rows) for size in sorted(sizes, reverse=True)]
    if half_life is not None and rows > 2 * half_life:
        found.append(TrainingWindow(AGED, 0, rows, half_life))
    return tuple(found)


def window_size(name: str, half_life: float | None) -> int | None:
    """Return the rows of a window of the newest rows, by its name; None for other windows.

    An aged window has about `half_life / ln 2` rows, however long the table is.
    """
    kind, _, count = name.partition("-")
    if kind == "last" and count.isdigit():
        return int(count)
    return round(half_life / math.log(2)) if name == AGED and half_life is not None else None


def held_out_rows(rows: int, *, share: float = 0.25, fewest: int = 60, most: int = 500) -> int:
    """Return how many of the newest `rows` to hold out, to choose between windows and compare on.

    Few where few have arrived since a change, as training needs them more; at most half.
    """
    return min(max(round(rows * share), fewest), most, rows // 2)

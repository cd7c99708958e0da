"""Training windows: models are fitted on several ranges of rows, and the newest rows decide.

How much of the past still applies is unknown. After an abrupt change only the rows since are right;
where nothing changed, all rows are best; where old conditions return, old rows are useful. So the
window is searched like a hyperparameter, over at most three that differ in size. See decisions 101
and 193.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RowPositions = NDArray[np.int64]

ALL, SINCE = "all", "since"

#: Size of the window of the newest rows.
NEWEST_ROWS = 2_000

#: That window is left out unless it has at most this share of all rows, and its size and that of
#: the window since the change differ at least as much.
MAX_SIZE_RATIO = 0.8
MIN_ROWS = 50


@dataclass(frozen=True)
class TrainingWindow:
    """Rows `start:end` of a table in order of time.

    Args:
        name: `all`, `last-2000` or `since` (the change).
        start: The first row.
        end: The row after the last.
    """

    name: str
    start: int
    end: int

    def rows(self) -> RowPositions:
        """Return the positions of the rows, in order."""
        return np.arange(self.start, self.end, dtype=np.int64)


def training_windows(
    rows: int, *, since: int | None = None, fewest: int = MIN_ROWS
) -> tuple[TrainingWindow, ...]:
    """Choose the training windows, the largest first.

    Args:
        rows: Number of rows to train on.
        since: First row after the change, where one is known; replaces a window of nearly the same
            size.
        fewest: Rows of the smallest window; only `all` may have fewer.
    """
    changed = rows - since if since is not None and fewest <= rows - since < rows else None
    sizes = {rows: ALL}
    size = NEWEST_ROWS
    near = changed is not None and MAX_SIZE_RATIO <= size / changed <= 1 / MAX_SIZE_RATIO
    if fewest <= size <= MAX_SIZE_RATIO * rows and not near:
        sizes[size] = f"last-{size}"
    if changed is not None:
        sizes[changed] = SINCE
    ordered = sorted(sizes, reverse=True)
    return tuple(TrainingWindow(sizes[size], rows - size, rows) for size in ordered)


def window_size(name: str) -> int | None:
    """Return the rows of a window of the newest rows, by its name; None for other windows."""
    kind, _, count = name.partition("-")
    return int(count) if kind == "last" and count.isdigit() else None


def held_out_rows(rows: int, *, share: float = 0.25, fewest: int = 60, most: int = 500) -> int:
    """Return how many of the newest `rows` to hold out, to choose between windows and compare on.

    Few where few have arrived since a change, as training needs them more; at most half.
    """
    return min(max(round(rows * share), fewest), most, rows // 2)

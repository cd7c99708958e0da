"""Which labelled rows to learn from: a new model is fitted on several windows, and the newest rows
decide between them.

Nobody knows beforehand how much of the past still holds. After an abrupt change only what came
since is right; where nothing changed, all rows are best; where old conditions return, so do old
rows. So the window is searched, as a hyperparameter is, and its candidates are few and far apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RowPositions = NDArray[np.int64]

ALL, SINCE, AGED = "all", "since", "aged"

#: A window is left out unless it is at most this share of the next larger one.
APART = 0.8
FEWEST = 50


@dataclass(frozen=True)
class TrainingWindow:
    """Rows `start:end` of a table in the order of time, old ones thinned out where they age.

    Args:
        name: `all`, `last-5000`, `since` (the change) or `aged`.
        start: The first row.
        end: The row after the last.
        half_life: The age in rows at which half of the rows are left; None keeps all.
    """

    name: str
    start: int
    end: int
    half_life: float | None = None

    def rows(self, seed: int = 0) -> RowPositions:
        """The places of the rows, in order.

        A row of age a stays with a probability of 2 ** (-a / half_life). Thinning does what
        weights by age would do, for estimators that take no weights as well, and saves time.
        """
        found = np.arange(self.start, self.end, dtype=np.int64)
        if self.half_life is None:
            return found
        chances = np.exp2(-(self.end - 1 - found) / self.half_life)
        kept = np.random.default_rng(seed).random(found.size) < chances
        return np.asarray(found[kept])


def training_windows(
    rows: int,
    *,
    since: int | None = None,
    lasts: Sequence[int] = (10_000, 5_000, 2_000),
    half_life: float | None = 2_000,
    fewest: int = FEWEST,
) -> tuple[TrainingWindow, ...]:
    """The windows worth fitting on, the widest first; only `all` may hold fewer than `fewest` rows.

    Args:
        rows: How many rows there are to learn from.
        since: The row at which things probably changed, where something says so. A window of
            nearly the same size makes way for it.
        lasts: Sizes of windows of the newest rows.
        half_life: Of the window that thins out old rows; None, or a short table, leaves it out.
        fewest: The smallest window.
    """
    changed = rows - since if since is not None and fewest <= rows - since < rows else None
    sizes = {rows: ALL}
    for size in sorted(set(lasts), reverse=True):
        near = changed is not None and APART <= size / changed <= 1 / APART
        if fewest <= size <= APART * min(sizes) and not near:
            sizes[size] = f"last-{size}"
    if changed is not None:
        sizes[changed] = SINCE
    found = [TrainingWindow(sizes[size], rows - size, rows) for size in sorted(sizes, reverse=True)]
    if half_life is not None and rows > 2 * half_life:
        found.append(TrainingWindow(AGED, 0, rows, half_life))
    return tuple(found)


def window_size(name: str, half_life: float | None) -> int | None:
    """How many rows a window of the newest rows holds, by its name; None for any other window.

    One that thins out old rows holds about `half_life / ln 2`, however long the table is.
    """
    kind, _, count = name.partition("-")
    if kind == "last" and count.isdigit():
        return int(count)
    return round(half_life / math.log(2)) if name == AGED and half_life is not None else None


def held_out_rows(rows: int, *, share: float = 0.25, fewest: int = 60, most: int = 500) -> int:
    """How many of the newest `rows` to hold out, to choose between windows and to judge on.

    Few where few have come since a change, because the model needs them more; never more than half.
    """
    return min(max(round(rows * share), fewest), most, rows // 2)

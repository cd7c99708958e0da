"""Watching losses as they come: detectors that take one batch after the other and can be saved.

`PageHinkley` knows the loss to expect and raises its alarm when losses have run above it for long
enough; its threshold follows from how rarely a false alarm may come. `Adwin` expects nothing: it
keeps a window of recent losses and cuts off its older part when that no longer fits the newer.
Both are msgspec structs: `msgspec.json` saves and restores them, mid-stream.

Sources: Page, Biometrika 41 (1954) 100; the time between its false alarms, Lorden, Ann. Math.
Statist. 42 (1971) 1897; Bennett's inequality, JASA 57 (1962) 33; Bifet & Gavaldà, "Learning from
Time-Changing Data with Adaptive Windowing" (SDM 2007).
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

Floats = NDArray[np.float64]

#: The weight of an expected loss that is known, and not learned from the stream.
NEVER = -1.0


class PageHinkley(msgspec.Struct):
    """An alarm when losses run above the expected one by more than `slack` for long enough.

    The sum of (loss - expected - slack), never below zero, is compared with `threshold`. Make one
    with `page_hinkley`, which finds slack and threshold. Losses above `cap` count as `cap`, so
    that no single row raises the alarm.

    The expected loss is at most `ceiling`. Where that was a cautious guess from few rows, it comes
    down as losses arrive: to their running `mean`, which began as that of `weight` earlier rows,
    plus `margin / sqrt(weight)`. It never rises above the ceiling, so that no decay, however slow,
    is taken for the usual.

    `rows` counts all losses seen, `began` is where the present run above expectation began: at an
    alarm, the likely moment of the change.
    """

    ceiling: float
    slack: float
    threshold: float
    cap: float
    mean: float = 0.0
    weight: float = NEVER
    margin: float = 0.0
    total: float = 0.0
    rows: int = 0
    began: int = 0
    alarm: bool = False

    def update(self, losses: ArrayLike) -> bool:
        """Take the next losses [rows], in order; True once there is an alarm, until `reset`."""
        batch = np.minimum(np.asarray(losses, dtype=np.float64).ravel(), self.cap)
        if batch.size and not self.alarm:
            self._add(batch)
        return self.alarm

    def reset(self) -> None:
        """Start over, after the model was replaced or the alarm was handled."""
        self.total, self.alarm, self.began = 0.0, False, self.rows

    def _add(self, batch: Floats) -> None:
        weights, means = self._learn(batch)
        margins = self.margin / np.sqrt(np.abs(weights[:-1]))
        expected = np.minimum(self.ceiling, means[:-1] + margins)
        walk = self.total + np.cumsum(batch - expected - self.slack)
        height = walk - np.minimum.accumulate(np.minimum(walk, 0.0))
        over = np.flatnonzero(height > self.threshold)
        last = int(over[0]) if over.size else batch.size - 1
        grounded = np.flatnonzero(height[: last + 1] <= 0.0)
        if grounded.size:
            self.began = self.rows + int(grounded[-1]) + 1
        self.total, self.alarm = float(height[last]), bool(over.size)
        self.rows += last + 1
        self.weight, self.mean = float(weights[last + 1]), float(means[last + 1])

    def _learn(self, batch: Floats) -> tuple[Floats, Floats]:
        """The weight and the running mean before each loss of the batch, and after the last."""
        if self.weight == NEVER:
            return np.full(batch.size + 1, NEVER), np.full(batch.size + 1, self.ceiling)
        weights = self.weight + np.arange(batch.size + 1, dtype=np.float64)
        sums = self.mean * self.weight + np.concatenate([[0.0], np.cumsum(batch)])
        return np.asarray(weights), np.asarray(sums / weights)


def page_hinkley(
    expected: float,
    deviation: float,
    *,
    harm: float,
    cap: float,
    rows_between_alarms: float = 100_000,
) -> PageHinkley:
    """A detector of a rise of the mean loss by `harm` or more.

    With e the exponent at which the mean of exp(e * (loss - expected - slack)) is at most 1, the
    time between false alarms is at least exp(e * threshold) rows on average, whatever the
    distribution with that mean, deviation and cap.

    Args:
        expected: The mean loss while all is well, from held-out rows.
        deviation: The standard deviation of one row's loss.
        harm: The rise worth an alarm, in units of the loss. Half of it is slack.
        cap: The largest loss that counts: 1 for right or wrong.
        rows_between_alarms: How many rows, on average at least, pass between two false alarms.

    Raises:
        ValueError: Deviation or harm is not above zero, or no loss could ever exceed the slack.
    """
    slack, reach = harm / 2, cap - expected
    if min(slack, deviation) <= 0 or reach <= slack:
        raise ValueError("harm and deviation must be above zero, and harm within the cap")
    exponent = _exponent(slack, deviation**2, reach)
    return PageHinkley(expected, slack, math.log(rows_between_alarms) / exponent, cap)


def _exponent(slack: float, variance: float, reach: float) -> float:
    """The positive root of Bennett's bound on the cumulant of (loss - expected - slack)."""

    def bound(e: float) -> float:
        return variance / reach**2 * (math.expm1(e * reach) - e * reach) - e * slack

    high = 1.0 / reach
    while bound(high) < 0:
        high *= 2
    low = high / 2
    while bound(low) > 0:
        low /= 2
    return float(optimize.brentq(bound, low, high))


class Adwin(msgspec.Struct):
    """An alarm when the mean of recent losses is no longer that of older ones.

    Args:
        delta: The chance of a false cut at any one look.
        every: Look after so many losses.
        buckets: How many buckets of each size are kept (2 ** k losses each).

    `sums[k]` and `squares[k]` hold the buckets of size 2 ** k, oldest first: the sum of the losses
    in each, and the sum of their squared deviations from the bucket's own mean. `risen` tells
    whether the last cut was for a higher mean.
    """

    delta: float = 0.002
    every: int = 32
    buckets: int = 5
    rows: int = 0
    cuts: int = 0
    risen: bool = False
    sums: list[list[float]] = []
    squares: list[list[float]] = []

    def update(self, losses: ArrayLike) -> bool:
        """Take the next losses [rows], in order; True when the window was cut on the way."""
        before = self.cuts
        for loss in np.asarray(losses, dtype=np.float64).ravel().tolist():
            self._append(loss)
            if self.rows % self.every == 0:
                self._cut()
        return self.cuts > before

    @property
    def width(self) -> int:
        """How many losses the window holds."""
        return sum(len(level) << k for k, level in enumerate(self.sums))

    @property
    def mean(self) -> float:
        """The mean loss in the window; 0 when it is empty."""
        return math.fsum(math.fsum(level) for level in self.sums) / max(self.width, 1)

    def _append(self, loss: float) -> None:
        self.rows += 1
        self._push(0, loss, 0.0)
        level = 0
        while len(self.sums[level]) > self.buckets:
            self._merge(level)
            level += 1

    def _push(self, level: int, total: float, square: float) -> None:
        if level == len(self.sums):
            self.sums.append([])
            self.squares.append([])
        self.sums[level].append(total)
        self.squares[level].append(square)

    def _merge(self, level: int) -> None:
        """The two oldest buckets of a size become one of the next."""
        size = 1 << level
        (one, other), self.sums[level] = self.sums[level][:2], self.sums[level][2:]
        (a, b), self.squares[level] = self.squares[level][:2], self.squares[level][2:]
        between = (one - other) ** 2 / (2 * size)
        self._push(level + 1, one + other, a + b + between)

    def _cut(self) -> None:
        while (rise := self._first_cut()) is not None:
            self.cuts += 1
            self.risen = rise
            self._drop_oldest()

    def _first_cut(self) -> bool | None:
        """Whether some split of the window differs too much: True if the newer part is higher."""
        sizes, sums, squares = self._columns()
        if sizes.size < 2 or sizes.sum() < 2 * self.every:
            return None
        old_rows, old_sums = np.cumsum(sizes)[:-1], np.cumsum(sums)[:-1]
        new_rows = sizes.sum() - old_rows
        gap = (sums.sum() - old_sums) / new_rows - old_sums / old_rows
        apart = np.abs(gap) > self._bound(old_rows, new_rows, _variance(sizes, sums, squares))
        apart &= (old_rows >= 5) & (new_rows >= 5)
        return bool(gap[int(np.argmax(apart))] > 0) if apart.any() else None

    def _bound(self, old: Floats, new: Floats, variance: float) -> Floats:
        """The largest gap that chance explains, by Bernstein's inequality (section 3.2 there)."""
        evidence = math.log(2 * math.log(float(old[0] + new[0])) / self.delta)
        share = 1 / old + 1 / new
        return np.asarray(np.sqrt(2 * share * variance * evidence) + 2 / 3 * share * evidence)

    def _columns(self) -> tuple[Floats, Floats, Floats]:
        """Sizes, sums and squares of all buckets, oldest first."""
        levels = range(len(self.sums) - 1, -1, -1)
        sizes = [float(1 << k) for k in levels for _ in self.sums[k]]
        sums = [total for k in levels for total in self.sums[k]]
        squares = [square for k in levels for square in self.squares[k]]
        return np.array(sizes), np.array(sums), np.array(squares)

    def _drop_oldest(self) -> None:
        self.sums[-1].pop(0)
        self.squares[-1].pop(0)
        if not self.sums[-1]:
            self.sums.pop()
            self.squares.pop()


def _variance(sizes: Floats, sums: Floats, squares: Floats) -> float:
    mean = sums.sum() / sizes.sum()
    between = (sizes * (sums / sizes - mean) ** 2).sum()
    return float((squares.sum() + between) / sizes.sum())

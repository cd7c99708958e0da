"""Page-Hinkley test: a sequential detector of an increase in the mean loss.

Its threshold follows from how rarely a false alarm may come. The detector is a msgspec struct, so
`msgspec.json` saves and restores it between batches.

Sources: Page, Biometrika 41 (1954) 100; the time between false alarms, Lorden, Ann. Math. Statist.
42 (1971) 1897; Bennett's inequality, JASA 57 (1962) 33. See decision 085.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

Floats = NDArray[np.float64]

#: `weight` of a detector whose expected loss is fixed, not learned from the stream.
FIXED = -1.0


class PageHinkley(msgspec.Struct):
    """Raises an alarm when losses have exceeded the expected loss by more than `slack` for long.

    The statistic is the sum of (loss - expected - slack), reset to zero whenever it is negative;
    above `threshold` it is an alarm. `page_hinkley` chooses slack and threshold. A loss above `cap`
    counts as `cap`, so that no single row can raise the alarm.

    The expected loss is at most `max_expected`. Where that is a cautious guess from few rows, the
    expectation falls as losses arrive, to their running `mean` (which starts as the mean of
    `weight` earlier rows) plus `margin / sqrt(weight)`. It never exceeds `max_expected`, so a slow
    decay is not learned as normal.

    Attributes:
        rows: Losses processed.
        run_start: Index of the first loss of the current run above expectation; at an alarm, the
            estimated change point. Equal to `rows` where there is no such run.
        alarm: Whether the threshold was exceeded; stays True until `reset`.

    Examples:
        >>> detector = page_hinkley(0.1, 0.3, loss_increase=0.1, cap=1.0)
        >>> detector.update(np.zeros(1000))
        False
        >>> detector.update(np.ones(100))
        True
        >>> detector.run_start
        1000
    """

    max_expected: float = msgspec.field(name="ceiling")
    slack: float
    threshold: float
    cap: float
    mean: float = 0.0
    weight: float = FIXED
    margin: float = 0.0
    total: float = 0.0
    rows: int = 0
    run_start: int = msgspec.field(name="began", default=0)
    alarm: bool = False

    def update(self, losses: ArrayLike) -> bool:
        """Process the next losses [rows], in order, up to an alarm; return whether there is one."""
        batch = np.minimum(np.asarray(losses, dtype=np.float64).ravel(), self.cap)
        if batch.size and not self.alarm:
            self._add(batch)
        return self.alarm

    def reset(self) -> None:
        """Start over, after an alarm was handled or the model was replaced."""
        self.total, self.alarm, self.run_start = 0.0, False, self.rows

    def _add(self, batch: Floats) -> None:
        weights, means = self._running_means(batch)
        margins = self.margin / np.sqrt(np.abs(weights[:-1]))
        expected = np.minimum(self.max_expected, means[:-1] + margins)
        walk = self.total + np.cumsum(batch - expected - self.slack)
        statistic = walk - np.minimum.accumulate(np.minimum(walk, 0.0))
        over = np.flatnonzero(statistic > self.threshold)
        last = int(over[0]) if over.size else batch.size - 1
        at_zero = np.flatnonzero(statistic[: last + 1] <= 0.0)
        if at_zero.size:
            self.run_start = self.rows + int(at_zero[-1]) + 1
        self.total, self.alarm = float(statistic[last]), bool(over.size)
        self.rows += last + 1
        self.weight, self.mean = float(weights[last + 1]), float(means[last + 1])

    def _running_means(self, batch: Floats) -> tuple[Floats, Floats]:
        """The weight and running mean before each loss of the batch, and after the last one."""
        if self.weight == FIXED:
            fixed = np.full(batch.size + 1, self.max_expected)
            return np.full(batch.size + 1, FIXED), fixed
        weights = self.weight + np.arange(batch.size + 1, dtype=np.float64)
        sums = self.mean * self.weight + np.concatenate([[0.0], np.cumsum(batch)])
        return np.asarray(weights), np.asarray(sums / weights)


def page_hinkley(
    expected: float,
    deviation: float,
    *,
    loss_increase: float,
    cap: float,
    rows_between_alarms: float = 100_000,
) -> PageHinkley:
    """Make a detector of an increase of the mean loss by `loss_increase` or more.

    With e the exponent at which the mean of exp(e * (loss - expected - slack)) is at most 1, the
    average number of rows between false alarms is at least exp(e * threshold), for every
    distribution with that mean, deviation and cap.

    Args:
        expected: Mean loss in normal operation, from held-out rows.
        deviation: Standard deviation of one row's loss.
        loss_increase: Smallest increase that should raise an alarm, in units of the loss. Half of
            it becomes the slack.
        cap: Largest loss that counts; 1 where losses are 0 or 1.
        rows_between_alarms: Rows between two false alarms, on average at least.

    Raises:
        ValueError: `deviation` or `loss_increase` is not above zero, or no loss could exceed the
            expected one by more than the slack.
    """
    slack, reach = loss_increase / 2, cap - expected
    if min(slack, deviation) <= 0 or reach <= slack:
        raise ValueError(
            "loss_increase and deviation must be above zero, and loss_increase within the cap"
        )
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

"""Page-Hinkley detectors of a champion's losses, set up from its held-out rows."""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemill.policies import Decay
from tidemill.signature import Task
from tidemill.steps.decay.autocorrelation import autocorrelation_time
from tidemill.steps.decay.holdout import Holdout, LossStatistics
from tidemill.steps.decay.page_hinkley import FIXED, PageHinkley, page_hinkley

Floats = NDArray[np.float64]

Z_ONE_SIDED = 1.645  # 95%

#: A regressor's error counts up to this many standard deviations above the expected one.
OUTLIER = 4.0

#: Fewest rows from which the expected loss of a retained champion is estimated.
MIN_RETAINED_ROWS = 50


def loss_detector(holdout: Holdout, policy: Decay = Decay(), *, tau: float = 1.0) -> PageHinkley:
    """Make a detector of row losses (`tidemill.steps.decay.holdout.row_losses`) above normal.

    The expected loss starts at the upper bound that the held-out rows allow (95%, one-sided), so
    that a lucky hold-out does not cause an alarm later, and falls as the stream shows more.

    Args:
        holdout: The champion on its held-out rows.
        policy: `loss_increase` and `rows_between_alarms` are used.
        tau: Autocorrelation time of the losses, in rows; see
            `tidemill.steps.decay.autocorrelation`.
    """
    rows, mean, deviation = holdout.rows, holdout.losses.mean, holdout.losses.deviation
    if holdout.task == "classification":
        mean = (mean * rows + 1) / (rows + 2)  # no hold-out proves that a model makes no errors
        usual = math.sqrt(mean * (1 - mean) * tau)
        expected = min(mean + _upper(usual, rows), 1 - 1 / (rows + 2))
        deviation, cap = math.sqrt(expected * (1 - expected)), 1.0
        increase = min(policy.loss_increase or 0.1, 1 - expected)
    else:
        deviation = max(deviation, 1e-9 * max(mean, 1.0))
        expected = mean + _upper(deviation * math.sqrt(tau), rows)
        increase = policy.loss_increase or max(mean / 4, deviation / 10)
        cap = expected + max(OUTLIER * deviation, 2 * increase)
    deviation *= math.sqrt(tau)
    detector = page_hinkley(
        expected,
        deviation,
        loss_increase=increase,
        cap=cap,
        rows_between_alarms=policy.rows_between_alarms,
    )
    detector.mean, detector.weight, detector.margin = mean, rows, Z_ONE_SIDED * deviation
    return detector


def retained_champion_detector(
    before: PageHinkley, task: Task, losses: Floats, policy: Decay = Decay()
) -> PageHinkley:
    """Make the detector that follows a retraining which found nothing better than the champion.

    The champion's present losses become the expected ones: the same level, or another bad period
    like the last, is no longer an alarm, and only a further increase is. Losses are often
    autocorrelated, which the detector's bound does not allow for; their autocorrelation time is
    estimated, and the rows count for less accordingly.

    Args:
        before: The detector so far. It is kept, reset, if it already expects losses as high.
        losses: [rows] the champion's, on the rows that it was compared on, in order.
        policy: As in `loss_detector`.
    """
    old = msgspec.structs.replace(before)
    old.reset()
    if len(losses) < MIN_RETAINED_ROWS:
        return old
    statistics = LossStatistics(float(losses.mean()), float(losses.std()))
    observed = Holdout(task, len(losses), {}, statistics)
    new = loss_detector(observed, policy, tau=autocorrelation_time(losses))
    if new.max_expected <= old.max_expected:
        return old
    # These rows come from a bad period. If the expectation could fall when it ends, its return
    # would be an alarm.
    new.weight = FIXED
    new.rows = new.run_start = old.rows
    return new


def _upper(deviation: float, rows: int) -> float:
    return Z_ONE_SIDED * deviation / math.sqrt(rows)

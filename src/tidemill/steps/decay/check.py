"""Is the model worse? Labelled rows against what the model did on held-out rows.

The metric of the window comes with a bootstrap interval, the held-out metric with its standard
error; the model counts as hurt when their difference is, beyond chance, worse than `tolerance`.
Without labels, `tidemill.steps.decay.cbpe` estimates accuracy from confidences. `assess` puts both
beside
`tidemill.steps.drift.check`: data that moved is a reason to look, a hurt model a reason to act.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ProjectError
from tidemill.metrics import METRICS
from tidemill.signature import Label, Task
from tidemill.steps.decay.cbpe import AccuracyEstimate
from tidemill.steps.decay.holdout import (
    Holdout,
    LossStatistics,
    MetricValue,
    bootstrap_metric,
    encode,
    smoothed_variance,
)
from tidemill.steps.decay.page_hinkley import NEVER, PageHinkley, page_hinkley
from tidemill.steps.drift.check import DriftReport
from tidemill.steps.gate.bootstrap import point_value

Floats = NDArray[np.float64]
ModelState = Literal["unknown", "steady", "data moved", "model hurt", "data moved and model hurt"]

Z_ONE_SIDED = 1.645

#: Errors count up to so many standard deviations above the expected one.
OUTLIER = 4.0

#: From so many rows on, what a kept champion loses is known well enough.
MIN_RETAINED_ROWS = 50

#: The newest rows, and the fewest, that tell whether losses come in spells; and what rows without
#: any reach now and then.
AUTOCORRELATION_ROWS = 2_000
FEWEST_FOR_SPELLS = 500
CHANCE_OF_SPELLS = 1.5


@dataclass(frozen=True)
class DecayPolicy:
    """When a worse metric is an alarm.

    Args:
        alpha: The chance of calling an unchanged model hurt in one check.
        tolerance: How much worse than on held-out rows is no harm, in units of the metric.
        min_rows: A window of fewer labelled rows gets no verdict.
        confidence: Of the interval that is reported.
        resamples: Bootstrap draws.
        seed: Fixes them.
    """

    alpha: float = 0.01
    tolerance: float = 0.0
    min_rows: int = 50
    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0


class DecayReport(msgspec.Struct, frozen=True):
    """The live metric against the held-out one.

    `loss` is how much worse the window is, in units of the metric and positive when worse; `low`
    and `high` bound the metric itself. None where the window does not define the metric.
    """

    metric: str
    rows: int
    enough: bool
    hurt: bool
    reference: float
    summary: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    loss: float | None = None
    p_value: float | None = None


class MonitoringAssessment(msgspec.Struct, frozen=True):
    """What drift, live metric and estimated accuracy say together.

    `hurt` is None when nothing can tell; `basis` names what told: "labels", "confidences" or "".
    """

    state: ModelState
    moved: bool | None
    hurt: bool | None
    basis: str
    summary: str


def check_decay(
    reference: MetricValue | float,
    y: NDArray[Any],
    predicted: NDArray[Any],
    probabilities: Floats | None = None,
    *,
    metric: str,
    labels: Sequence[Label] = (),
    policy: DecayPolicy = DecayPolicy(),
    memory: float = 1.0,
) -> DecayReport:
    """Compare a labelled window with the champion's held-out metric.

    Args:
        reference: The held-out metric with its standard error; a bare number is taken as exact.
        y: What is true [rows].
        predicted: What was answered [rows].
        probabilities: [rows, labels]; needed for roc_auc and log_loss.
        metric: A name of `tidemill.metrics.METRICS`.
        labels: The labels in the order of the probabilities; empty for regression.
        policy: When a worse metric is an alarm.
        memory: The autocorrelation time of the losses, in rows; see `robust_autocorrelation_time`.

    Raises:
        ProjectError: The metric is unknown, or needs probabilities that are not there.
    """
    if metric not in METRICS:
        raise ProjectError(f"There is no metric '{metric}'.", field=metric)
    if METRICS[metric].needs_probabilities and probabilities is None:
        raise ProjectError(f"'{metric}' needs probabilities, which are not there.", field=metric)
    held_out = reference if isinstance(reference, MetricValue) else MetricValue(float(reference))
    if len(y) < policy.min_rows:
        return _no_verdict(metric, len(y), held_out, f"{policy.min_rows} are needed")
    task = METRICS[metric].task
    truth, answers = encode(task, y, predicted, probabilities, labels)
    value = point_value(metric, truth, answers)
    found = bootstrap_metric(metric, truth, answers, resamples=policy.resamples, seed=policy.seed)
    if not np.isfinite(value) or found.size < policy.resamples / 2:
        return _no_verdict(metric, len(y), held_out, f"'{metric}' is not defined on them")
    found = value + (found - value) * math.sqrt(memory)
    return _verdict(metric, len(y), held_out, value, found, policy)


def loss_detector(
    holdout: Holdout,
    *,
    harm: float | None = None,
    rows_between_alarms: float = 100_000,
    memory: float = 1.0,
) -> PageHinkley:
    """A Page-Hinkley detector of losses (`tidemill.steps.decay.holdout.row_losses`) above the
    usual.

    The expected loss begins at the upper end of what the held-out rows allow (95%, one-sided), so
    that a lucky hold-out does not raise an alarm later, and comes down as the stream shows more.

    Args:
        holdout: The champion on its held-out rows.
        harm: The rise of the mean loss worth an alarm; None takes 0.1 for right or wrong (ten
            wrong answers more in a hundred), and for errors a quarter of the usual one.
        rows_between_alarms: How many labelled rows, on average at least, between false alarms.
        memory: How many rows say as much as one independent row, see `autocorrelation_time`.
    """
    rows, mean, deviation = holdout.rows, holdout.losses.mean, holdout.losses.deviation
    if holdout.task == "classification":
        mean = (mean * rows + 1) / (rows + 2)  # no hold-out proves a model free of errors
        usual = math.sqrt(mean * (1 - mean) * memory)
        expected = min(mean + _upper(usual, rows), 1 - 1 / (rows + 2))
        deviation, cap = math.sqrt(expected * (1 - expected)), 1.0
        rise = min(harm or 0.1, 1 - expected)
    else:
        deviation = max(deviation, 1e-9 * max(mean, 1.0))
        expected = mean + _upper(deviation * math.sqrt(memory), rows)
        rise = harm or max(mean / 4, deviation / 10)
        cap = expected + max(OUTLIER * deviation, 2 * rise)
    deviation *= math.sqrt(memory)
    detector = page_hinkley(
        expected, deviation, harm=rise, cap=cap, rows_between_alarms=rows_between_alarms
    )
    detector.mean, detector.weight, detector.margin = mean, rows, Z_ONE_SIDED * deviation
    return detector


def retained_champion_detector(
    before: PageHinkley,
    task: Task,
    losses: Floats,
    *,
    harm: float | None = None,
    rows_between_alarms: float = 100_000,
) -> PageHinkley:
    """The detector after a retraining that found nothing better than the champion.

    What it loses now is what can be expected: the same level, or a spell like the last, is no news
    any more, and only a further rise is. Losses often come in spells, which the detector's bound
    does not know of; how long they last is estimated, and counted as fewer rows.

    Args:
        before: The detector until now; it stays, from a new start, if it allows as much anyway.
        losses: Of the rows that the champion was compared on [rows], in order.
    """
    old = msgspec.structs.replace(before)
    old.reset()
    if len(losses) < MIN_RETAINED_ROWS:
        return old
    seen = Holdout(task, len(losses), {}, LossStatistics(float(losses.mean()), float(losses.std())))
    new = loss_detector(
        seen,
        harm=harm,
        rows_between_alarms=rows_between_alarms,
        memory=autocorrelation_time(losses),
    )
    if new.ceiling <= old.ceiling:
        return old
    # The expectation came from rows in trouble: it may not come down and make an end of trouble,
    # and its return, an alarm.
    new.weight = NEVER
    new.rows = new.began = old.rows
    return new


def autocorrelation_time(losses: Floats) -> float:
    """How many rows in sequence say as much as one independent row: 1 or more.

    The variance of the means of batches, against that of independent rows (batch means; about as
    many batches as rows in each).
    """
    size = math.isqrt(len(losses))
    spread = float(losses.var())
    if size < 2 or spread <= 0:
        return 1.0
    whole = losses[: len(losses) // size * size].reshape(-1, size)
    return float(np.clip(size * whole.mean(axis=1).var(ddof=1) / spread, 1.0, size))


def robust_autocorrelation_time(losses: Floats) -> float:
    """As `autocorrelation_time`, for losses whose mean may have shifted within the sample.

    From the differences of neighbouring batches (von Neumann's ratio), to which a jump of the level
    adds but one; 1 for fewer than 500 rows, and where no more than chance is seen.
    """
    size = math.isqrt(len(losses))
    spread = float(losses.var()) if len(losses) >= FEWEST_FOR_SPELLS else 0.0
    if spread <= 0:
        return 1.0
    means = losses[: len(losses) // size * size].reshape(-1, size).mean(axis=1)
    found = size * float(np.mean(np.diff(means) ** 2)) / 2 / spread
    return min(found, float(size)) if found > CHANCE_OF_SPELLS else 1.0


def _upper(deviation: float, rows: int) -> float:
    return Z_ONE_SIDED * deviation / math.sqrt(rows)


def assess(
    drift: DriftReport | None,
    decay: DecayReport | None = None,
    estimate: AccuracyEstimate | None = None,
) -> MonitoringAssessment:
    """Tell `data moved` from `model hurt`; labels count for more than confidences."""
    moved = drift.moved if drift is not None and drift.enough else None
    hurt, basis = None, ""
    if decay is not None and decay.enough:
        hurt, basis = decay.hurt, "labels"
    elif estimate is not None:
        hurt, basis = estimate.hurt, "confidences"
    spoken = [part.summary for part in (drift, decay, estimate) if part is not None]
    return MonitoringAssessment(_state(moved, hurt), moved, hurt, basis, " ".join(spoken))


def _state(moved: bool | None, hurt: bool | None) -> ModelState:
    if moved is None and hurt is None:
        return "unknown"
    if moved:
        return "data moved and model hurt" if hurt else "data moved"
    return "model hurt" if hurt else "steady"


def _verdict(
    metric: str,
    rows: int,
    held_out: MetricValue,
    value: float,
    found: Floats,
    policy: DecayPolicy,
) -> DecayReport:
    sign = METRICS[metric].sign
    random = np.random.default_rng(policy.seed)
    errors = _reference_errors(metric, held_out, found)
    references = held_out.value + errors * random.standard_normal(found.size)
    losses = sign * (references - found)
    within = float(np.mean(losses <= policy.tolerance))
    hurt = bool(np.quantile(losses, policy.alpha) > policy.tolerance)
    side = (1 - policy.confidence) / 2
    low, high = _possible(metric, np.quantile(found, [side, 1 - side]))
    return DecayReport(
        metric=metric,
        rows=rows,
        enough=True,
        hurt=hurt,
        reference=held_out.value,
        summary=_summary(metric, rows, value, (float(low), float(high)), held_out.value, hurt),
        value=value,
        low=float(low),
        high=float(high),
        loss=sign * (held_out.value - value),
        p_value=within,
    )


def _possible(metric: str, bounds: Floats) -> Floats:
    """Bounds of an interval, where the metric itself has any."""
    return np.clip(bounds, METRICS[metric].low, METRICS[metric].high)


def _reference_errors(metric: str, held_out: MetricValue, found: Floats) -> Floats:
    """The held-out metric's standard error, were the truth what the window says.

    A share near 1 on few rows looks more certain than it is: 57 right answers of 57 are no rare
    luck for a model that is right 95 times in a hundred. So the error is that of the larger of
    both variances, as in a score test.
    """
    if not METRICS[metric].uses_labels or held_out.rows == 0:
        return np.full(found.size, held_out.error)
    ratio = found * (1 - found) / smoothed_variance(held_out.value, held_out.rows)
    return np.asarray(held_out.error * np.sqrt(np.maximum(ratio, 1.0)))


def _no_verdict(metric: str, rows: int, held_out: MetricValue, why: str) -> DecayReport:
    summary = f"No verdict on {metric}: {rows:,} labelled rows; {why}."
    return DecayReport(metric, rows, False, False, held_out.value, summary)


def _summary(
    metric: str,
    rows: int,
    value: float,
    bounds: tuple[float, float],
    reference: float,
    hurt: bool,
) -> str:
    verdict = "The model is hurt" if hurt else "The model holds"
    return (
        f"{verdict}: {metric} is {value:.4g} ({bounds[0]:.4g} to {bounds[1]:.4g}) on {rows:,} "
        f"labelled rows, {reference:.4g} on held-out rows."
    )

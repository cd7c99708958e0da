"""Has the model degraded? Labelled rows are compared with the model's results on held-out rows.

The monitoring window's metric has a bootstrap distribution, the held-out metric a standard error;
the model counts as degraded when their difference exceeds `tolerance` beyond chance. Without
labels, `tidemill.steps.decay.cbpe` estimates the accuracy from confidences. `assess` combines both
with `tidemill.steps.drift.check`: drift is a reason to look, a degraded model a reason to act.

See decision 087.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ProjectError
from tidemill.metrics import METRICS
from tidemill.policies import Decay
from tidemill.signature import Label
from tidemill.steps.decay.cbpe import AccuracyEstimate
from tidemill.steps.decay.holdout import (
    MetricValue,
    bootstrap_metric,
    encode,
    smoothed_variance,
)
from tidemill.steps.drift.check import DriftReport
from tidemill.steps.evaluation.bootstrap import point_value

Floats = NDArray[np.float64]
ModelState = Literal[
    "unknown", "steady", "data moved", "model degraded", "data moved and model degraded"
]

#: Confidence of the reported interval, and bootstrap samples behind it.
CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 0


class DecayReport(msgspec.Struct, frozen=True):
    """The live metric compared with the held-out one.

    Attributes:
        metric: Its name.
        rows: Labelled rows in the window.
        enough: Whether there were enough rows for a verdict.
        degraded: Whether the model is worse than on held-out rows, beyond chance and tolerance.
        reference: The held-out metric.
        summary: One sentence.
        value: The window's metric, None where the window does not define it.
        low, high: Bounds of its 95% interval.
        loss: How much worse it is than the held-out metric, in units of the metric; positive is
            worse.
        p_value: Share of bootstrap samples that are not worse by more than the tolerance.
    """

    metric: str
    rows: int
    enough: bool
    degraded: bool = msgspec.field(name="hurt")
    reference: float
    summary: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    loss: float | None = None
    p_value: float | None = None


class MonitoringAssessment(msgspec.Struct, frozen=True):
    """Drift, live metric and estimated accuracy combined.

    `degraded` is None where neither labels nor confidences can tell; `basis` is "labels",
    "confidences" or "".
    """

    state: ModelState
    moved: bool | None
    degraded: bool | None
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
    policy: Decay = Decay(),
) -> DecayReport:
    """Compare a labelled window with the champion's held-out metric.

    Args:
        reference: The held-out metric with its standard error; a plain number counts as exact.
        y: [rows] the truth.
        predicted: [rows] labels or values.
        probabilities: [rows, labels]; needed for roc_auc and log_loss.
        metric: A name of `tidemill.metrics.METRICS`.
        labels: The labels in the order of the probabilities; empty for regression.
        policy: `alpha`, `tolerance` and `min_rows` are used.

    Raises:
        ProjectError: The metric is unknown, or needs probabilities and there are none.
    """
    if metric not in METRICS:
        raise ProjectError(f"There is no metric '{metric}'.", field=metric)
    if METRICS[metric].needs_probabilities and probabilities is None:
        raise ProjectError(f"'{metric}' needs probabilities, and there are none.", field=metric)
    held_out = reference if isinstance(reference, MetricValue) else MetricValue(float(reference))
    if len(y) < policy.min_rows:
        return _no_verdict(metric, len(y), held_out, f"{policy.min_rows} are needed")
    task = METRICS[metric].task
    truth, answers = encode(task, y, predicted, probabilities, labels)
    value = point_value(metric, truth, answers)
    samples = bootstrap_metric(metric, truth, answers, resamples=RESAMPLES, seed=SEED)
    if not np.isfinite(value) or samples.size < RESAMPLES / 2:
        return _no_verdict(metric, len(y), held_out, f"'{metric}' is not defined on them")
    references = _references(metric, held_out, samples)
    return _report(metric, len(y), held_out.value, value, (samples, references), policy)


def assess(
    drift: DriftReport | None,
    decay: DecayReport | None = None,
    estimate: AccuracyEstimate | None = None,
) -> MonitoringAssessment:
    """Combine the reports into a model's state; labels take precedence over confidences."""
    moved = drift.moved if drift is not None and drift.enough else None
    degraded, basis = None, ""
    if decay is not None and decay.enough:
        degraded, basis = decay.degraded, "labels"
    elif estimate is not None:
        degraded, basis = estimate.degraded, "confidences"
    summaries = [part.summary for part in (drift, decay, estimate) if part is not None]
    state = _state(moved, degraded)
    return MonitoringAssessment(state, moved, degraded, basis, " ".join(summaries))


def _state(moved: bool | None, degraded: bool | None) -> ModelState:
    if moved is None and degraded is None:
        return "unknown"
    if moved:
        return "data moved and model degraded" if degraded else "data moved"
    return "model degraded" if degraded else "steady"


def _references(metric: str, held_out: MetricValue, samples: Floats) -> Floats:
    """What the held-out metric could have been, one value for each bootstrap sample.

    A share near 1 on few rows looks more certain than it is: 57 right answers of 57 are not rare
    for a model that is right 95 times in a hundred. So the standard error is that of the larger of
    both variances, as in a score test.
    """
    errors = np.full(samples.size, held_out.error)
    if METRICS[metric].uses_labels and held_out.rows:
        ratio = samples * (1 - samples) / smoothed_variance(held_out.value, held_out.rows)
        errors = held_out.error * np.sqrt(np.maximum(ratio, 1.0))
    random = np.random.default_rng(SEED)
    return np.asarray(held_out.value + errors * random.standard_normal(samples.size))


def _report(
    metric: str,
    rows: int,
    reference: float,
    value: float,
    draws: tuple[Floats, Floats],
    policy: Decay,
) -> DecayReport:
    """The report; `draws` are the window's metric and the held-out one, [resamples] each."""
    samples, references = draws
    sign = METRICS[metric].sign
    losses = sign * (references - samples)
    degraded = bool(np.quantile(losses, policy.alpha) > policy.tolerance)
    side = (1 - CONFIDENCE) / 2
    low, high = _clip_to_range(metric, np.quantile(samples, [side, 1 - side])).tolist()
    verdict = "The model has degraded" if degraded else "The model has not degraded"
    return DecayReport(
        metric=metric,
        rows=rows,
        enough=True,
        degraded=degraded,
        reference=reference,
        summary=f"{verdict}: {metric} is {value:.4g} ({low:.4g} to {high:.4g}) on {rows:,} "
        f"labelled rows, {reference:.4g} on held-out rows.",
        value=value,
        low=low,
        high=high,
        loss=sign * (reference - value),
        p_value=float(np.mean(losses <= policy.tolerance)),
    )


def _clip_to_range(metric: str, bounds: Floats) -> Floats:
    return np.clip(bounds, METRICS[metric].low, METRICS[metric].high)


def _no_verdict(metric: str, rows: int, held_out: MetricValue, why: str) -> DecayReport:
    summary = f"No verdict on {metric}: {rows:,} labelled rows; {why}."
    return DecayReport(metric, rows, False, False, held_out.value, summary)

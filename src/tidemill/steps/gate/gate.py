"""The gate: whether a challenger has the evidence to become champion.

All conditions must hold; they are checked in this order:

1. The challenger meets every minimum metric of the project on the fresh rows.
2. The compiled model predicts what the trained one does (parity).
3. Predicting one row takes no longer than the project's limit, where it sets one.
4. Against a champion, on the same rows: the challenger's metric is better, and the share of the
   paired bootstrap's samples in which it is worse by more than the project's tolerance is at most
   1 - confidence. Samples that tie exactly at the tolerance count half.

An equal challenger does not pass, because a change without a gain is only a risk. Half of the ties
count against it because on few rows most samples tie: a challenger that is better on one row of 100
is behind in no sample, but chance alone has that result half of the time. See decision 044.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidemill.bundle import Parity
from tidemill.errors import GateError
from tidemill.metrics import METRICS, default_metric, metrics_of
from tidemill.project import Gate, Task
from tidemill.signature import Label
from tidemill.steps.evaluation.bootstrap import EncodedPredictions, paired_bootstrap, point_value
from tidemill.steps.export.parity import TOLERANCE, within_tolerance

Array = npt.NDArray[Any]

RESAMPLES = 10_000
SEED = 20_240_229


@dataclass(frozen=True)
class VersionEvidence:
    """One version's predictions for the held-out rows, with its latency and parity.

    Attributes:
        predicted: [rows] labels or values.
        probabilities: [rows, labels]; None where the model has none.
        labels: The labels in the order of the probabilities; empty for regression.
        latency_ms: Milliseconds for one row in the compiled model; None if not measured.
        parity: Differences between the compiled and the trained model, from the export.
        native: Whether the trained model itself is served, so that there is no parity.
        reproduced: Whether it reproduced its example predictions here; None if not tried.
    """

    predicted: Array
    probabilities: Array | None = None
    labels: Sequence[Label] = ()
    latency_ms: float | None = None
    parity: Parity | None = None
    native: bool = False
    reproduced: bool | None = None


class MinimumMetric(msgspec.Struct, frozen=True):
    """A minimum metric, and whether the challenger meets it (errors: stays at or below it)."""

    value: float | None
    bound: float
    holds: bool


class PairedComparison(msgspec.Struct, frozen=True):
    """Challenger and champion on the same rows.

    Attributes:
        challenger, champion: The metric of each.
        difference: The gain; positive where the challenger is better, for errors too.
        low, high: Its two-sided interval at the gate's confidence (bootstrap percentiles).
        probability_worse: Share of samples in which the challenger is worse by more than the
            tolerance; ties count half.
        undefined: Samples without a defined metric, which were left out.
    """

    challenger: float
    champion: float
    difference: float
    low: float | None
    high: float | None
    probability_worse: float
    resamples: int
    undefined: int
    seed: int


class GateVerdict(msgspec.Struct, frozen=True):
    """Whether a version passed the gate, with the evidence; plain values, fit for JSON.

    `reasons` are sentences: why it failed, or why it passed. `metrics` and `champion_metrics` have
    every metric that is defined on the same `rows` rows. `notes` are further remarks.
    `model`, `version`, `champion` (the version compared with), `promoted` and `forced` are set by
    `tidemill.loop.promotion.promote`; `promoted` is true after an override too.
    """

    passed: bool
    reasons: tuple[str, ...]
    metric: str
    rows: int
    confidence: float
    tolerance: float
    metrics: dict[str, float] = {}
    champion_metrics: dict[str, float] | None = None
    comparison: PairedComparison | None = None
    minimum: dict[str, MinimumMetric] = {}
    parity: Parity | None = None
    latency_ms: float | None = None
    champion_latency_ms: float | None = None
    max_latency_ms: float | None = None
    notes: tuple[str, ...] = ()
    model: str = ""
    version: str = ""
    champion: str | None = None
    promoted: bool = False
    forced: bool = False


def evaluate_gate(
    challenger: VersionEvidence,
    champion: VersionEvidence | None,
    y: Array,
    gate: Gate,
    task: Task,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> GateVerdict:
    """Apply the gate to a challenger; without a champion, only minimum metrics, parity and latency.

    Args:
        y: [rows] the truth, labels or values, of rows that neither model was trained on.

    Raises:
        GateError: There are no rows, or the metric does not belong to this task.
    """
    metric = gate.metric or default_metric(task)
    _check(metric, y, gate, task)
    truth, outcomes = encode_labels(y, [challenger] + ([champion] if champion else []), task)
    metrics = all_metrics(task, truth, outcomes[0])
    champion_metrics = all_metrics(task, truth, outcomes[1]) if champion else None
    minimum = {name: _minimum(name, metrics, bound) for name, bound in gate.minimum.items()}
    comparison = None
    if champion_metrics is not None and metric in metrics and metric in champion_metrics:
        comparison = _compare(metric, truth, outcomes, gate, resamples, seed)
    against = _refusals(challenger, minimum, gate)
    if champion is not None or metric not in metrics:
        against += _comparison_refusals(metric, metrics, comparison, gate)
    return GateVerdict(
        passed=not against,
        reasons=tuple(against) or (_reason_passed(metric, metrics, comparison, gate),),
        metric=metric,
        rows=len(y),
        confidence=gate.confidence,
        tolerance=gate.tolerance,
        metrics=metrics,
        champion_metrics=champion_metrics,
        comparison=comparison,
        minimum=minimum,
        parity=challenger.parity,
        latency_ms=challenger.latency_ms,
        champion_latency_ms=champion.latency_ms if champion else None,
        max_latency_ms=gate.max_latency_ms,
    )


def all_metrics(task: Task, y: Array, answers: EncodedPredictions) -> dict[str, float]:
    """Compute every metric of the task that is defined for the predictions and rows."""
    values = {name: point_value(name, y, answers) for name in metrics_of(task)}
    return {name: value for name, value in values.items() if np.isfinite(value)}


def _check(metric: str, y: Array, gate: Gate, task: Task) -> None:
    if len(y) == 0:
        raise GateError("There are no held-out rows to compare on.")
    for name in (metric, *gate.minimum):
        if name not in metrics_of(task):
            raise GateError(
                f"The gate's metric '{name}' is not a metric of {task}.",
                field="gate",
                expected=f"one of {', '.join(metrics_of(task))}",
            )


def encode_labels(
    y: Array, outcomes: list[VersionEvidence], task: Task
) -> tuple[Array, list[EncodedPredictions]]:
    """Encode labels as indices into one list of the truth's and every model's labels."""
    if task == "regression":
        values = [EncodedPredictions(np.asarray(o.predicted, dtype=np.float64)) for o in outcomes]
        return np.asarray(y, dtype=np.float64), values
    index: dict[Any, int] = {}
    truth = _indices(y, index)
    answers = []
    for outcome in outcomes:
        known = tuple(index.setdefault(label, len(index)) for label in outcome.labels)
        probabilities = outcome.probabilities
        if probabilities is not None:
            probabilities = np.asarray(probabilities, dtype=np.float64)
        answers.append(EncodedPredictions(_indices(outcome.predicted, index), probabilities, known))
    return truth, answers


def _indices(labels: Array, index: dict[Any, int]) -> Array:
    found = [index.setdefault(label, len(index)) for label in np.asarray(labels).tolist()]
    return np.array(found, dtype=np.int64)


def _minimum(name: str, metrics: dict[str, float], bound: float) -> MinimumMetric:
    value = metrics.get(name)
    if value is None:
        return MinimumMetric(None, bound, False)
    holds = value >= bound if METRICS[name].higher_is_better else value <= bound
    return MinimumMetric(value, bound, holds)


def _compare(
    metric: str, y: Array, answers: list[EncodedPredictions], gate: Gate, resamples: int, seed: int
) -> PairedComparison:
    challenger, champion = (point_value(metric, y, a) for a in answers)
    ones, others = paired_bootstrap(metric, y, *answers, resamples=resamples, seed=seed)
    sign = METRICS[metric].sign
    gains = sign * (ones - others)
    gains = gains[np.isfinite(gains)]
    low, high = _interval(gains, gate.confidence)
    return PairedComparison(
        challenger=challenger,
        champion=champion,
        difference=sign * (challenger - champion),
        low=low,
        high=high,
        probability_worse=_probability_worse(gains, gate.tolerance),
        resamples=resamples,
        undefined=resamples - len(gains),
        seed=seed,
    )


def _interval(gains: Array, confidence: float) -> tuple[float | None, float | None]:
    if len(gains) == 0:
        return None, None
    tail = (1 - confidence) / 2
    low, high = np.quantile(gains, [tail, 1 - tail])
    return float(low), float(high)


def _probability_worse(gains: Array, tolerance: float) -> float:
    """Share of samples below -tolerance, plus half of those that tie with it."""
    if len(gains) == 0:
        return 1.0
    margin = gains + tolerance
    tied = np.abs(margin) <= 1e-12
    return float(((margin < 0) & ~tied).mean() + tied.mean() / 2)


def _refusals(
    challenger: VersionEvidence, minimum: dict[str, MinimumMetric], gate: Gate
) -> list[str]:
    """The conditions that fail whichever version is champion, as sentences."""
    against = []
    for name, found in minimum.items():
        if found.value is None:
            against.append(
                f"{name} cannot be computed for this model; {found.bound:g} is required."
            )
        elif not found.holds:
            side = "at least" if METRICS[name].higher_is_better else "at most"
            against.append(f"{name} is {found.value:.4g}; {side} {found.bound:g} is required.")
    against += _parity_refusals(challenger)
    limit, taken = gate.max_latency_ms, challenger.latency_ms
    if limit is not None and (taken is None or taken > limit):
        shown = "not measured" if taken is None else f"{taken:.3g} ms"
        against.append(f"One row takes {shown}; at most {limit:g} ms is allowed.")
    return against


def _parity_refusals(challenger: VersionEvidence) -> list[str]:
    if challenger.reproduced is False:
        return ["The bundle does not reproduce its example predictions on this machine."]
    if challenger.native:
        return []
    parity = challenger.parity
    if parity is None:
        return ["The compiled model was never compared with the trained one."]
    if not within_tolerance(parity):
        return [
            f"The compiled model differs from the trained one by {parity.max_relative_error:.2g}"
            f"{'' if parity.labels_equal else ', and in labels'}; {TOLERANCE:g} is allowed."
        ]
    return []


def _comparison_refusals(
    metric: str, metrics: dict[str, float], comparison: PairedComparison | None, gate: Gate
) -> list[str]:
    if comparison is None:
        whose = "the champion" if metric in metrics else "this model"
        return [f"{metric} cannot be computed for {whose}."]
    if not comparison.difference > 0:
        return [
            f"{metric} is {comparison.challenger:.4g}, no better than the champion's "
            f"{comparison.champion:.4g}."
        ]
    allowed = 1 - gate.confidence
    if comparison.probability_worse > allowed:
        return [
            f"{metric} is {comparison.challenger:.4g} against {comparison.champion:.4g}, but it is "
            f"worse{_beyond(gate)} with a probability of {comparison.probability_worse:.2g}; "
            f"{allowed:.2g} is allowed."
        ]
    return []


def _reason_passed(
    metric: str, metrics: dict[str, float], comparison: PairedComparison | None, gate: Gate
) -> str:
    if comparison is None:
        return f"{metric} is {metrics[metric]:.4g}, and there is no champion to beat."
    return (
        f"{metric} is {comparison.challenger:.4g} against {comparison.champion:.4g}; it is worse"
        f"{_beyond(gate)} with a probability of {comparison.probability_worse:.2g} only."
    )


def _beyond(gate: Gate) -> str:
    return f" by more than {gate.tolerance:g}" if gate.tolerance else ""

"""One look at a model: the windows that are due, and what the checks say of them.

Windows do not overlap, so that each row is judged once and a chance of one in a hundred stays one:
a check is due when enough rows came since the last, or enough time passed. A look by hand takes the
newest rows whether a check is due or not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from tidemill.errors import DataError, ProjectError
from tidemill.loop.monitoring.reference import ChampionReference
from tidemill.metrics import METRICS
from tidemill.policies import Decay, Drift, Duration, seconds
from tidemill.steps.decay.autocorrelation import AUTOCORRELATION_ROWS, robust_autocorrelation_time
from tidemill.steps.decay.cbpe import AccuracyEstimate, estimate_accuracy
from tidemill.steps.decay.check import DecayReport, check_decay
from tidemill.steps.decay.holdout import Holdout, row_losses
from tidemill.steps.decay.loss_detector import (
    MIN_RETAINED_ROWS,
    loss_detector,
    retained_champion_detector,
)
from tidemill.steps.decay.page_hinkley import PageHinkley
from tidemill.steps.drift.check import DriftReport, check_drift
from tidemill.steps.drift.profile import tensor_summaries
from tidemill.steps.retraining.trigger_policy import PolicyState, Signal
from tidemill.stores.predictions.predictions import Predictions
from tidemill.stores.predictions.windows import Window

#: Labels taken at one look; the rest at the next.
LABELS_PER_CHECK = 50_000


class MonitoringState(msgspec.Struct, frozen=True):
    """What is remembered of a model between looks; times in seconds since the epoch.

    Attributes:
        policy: The alarms of this version.
        since: Rows answered earlier belong to an earlier reign of the same version.
        ticked: When the last look was.
        drift_end, decay_end: The last row, and the last label, that was judged.
        drift_checked, decay_checked: When.
        cursor: The last label that the detector took.
        detector: The sequential detector of losses; None before the first label.
        kept: How many retrainings in a row ended with this version kept, the last `kept_at`.
    """

    policy: PolicyState
    since: float = 0.0
    ticked: float = 0.0
    drift_end: float = 0.0
    drift_checked: float = 0.0
    decay_end: float = 0.0
    decay_checked: float = 0.0
    cursor: float = 0.0
    detector: PageHinkley | None = None
    kept: int = 0
    kept_at: float = 0.0


@dataclass(frozen=True)
class ChampionKept:
    """A retraining that ended with the champion kept: when, and on how many labelled rows."""

    at: float
    rows: int


@dataclass(frozen=True)
class WindowSpan:
    """A window's rows and time."""

    rows: int
    start: float
    end: float


@dataclass(frozen=True)
class MonitoringCheck:
    """What was found, the state after it, and what the policy is told.

    A report is None where no check was due. `sequential` is a sentence when the detector alarmed.
    """

    state: MonitoringState
    signals: tuple[Signal, ...] = ()
    drift: DriftReport | None = None
    drift_span: WindowSpan | None = None
    decay: DecayReport | None = None
    decay_span: WindowSpan | None = None
    estimate: AccuracyEstimate | None = None
    sequential: str | None = None

    @property
    def checked(self) -> bool:
        """Whether anything was judged."""
        found = (self.drift, self.decay, self.estimate, self.sequential)
        return any(part is not None for part in found)


@dataclass(frozen=True)
class MonitoringRules:
    """The project's policies, with the metric that decay is judged by."""

    drift: Drift
    decay: Decay
    metric: str


def initial_state(version: str, now: float, before: MonitoringState | None) -> MonitoringState:
    """The state of a version that has just become champion.

    Its rows begin at the last look, when it was not champion yet; those of the first champion
    there ever was begin at the beginning.
    """
    since = before.ticked if before is not None else 0.0
    return MonitoringState(
        policy=PolicyState(version, now),
        since=since,
        ticked=now,
        drift_end=since,
        drift_checked=now,
        decay_checked=now,
    )


def run_checks(
    reference: ChampionReference,
    rules: MonitoringRules,
    predictions: Predictions,
    state: MonitoringState,
    now: float,
    *,
    kept: ChampionKept | None = None,
    forced: bool = False,
) -> MonitoringCheck:
    """Make the checks that are due.

    Args:
        kept: The last retraining, where it found nothing better than this version.
        now: In seconds since the epoch.
        by_hand: Check the newest rows even if nothing is due.
    """
    looker = _Looker(reference, rules, predictions, now, forced, kept)
    look = looker.sequential(MonitoringCheck(msgspec.structs.replace(state, ticked=now)))
    look = looker.decay(look)
    return looker.drift(look)


@dataclass(frozen=True)
class _Looker:
    reference: ChampionReference
    rules: MonitoringRules
    predictions: Predictions
    now: float
    forced: bool
    kept: ChampionKept | None

    def drift(self, look: MonitoringCheck) -> MonitoringCheck:
        """Drift, and the estimate without labels, of the rows since the last check."""
        state, policy = look.state, self.rules.drift
        new = self._count(since=_after(state.drift_end, state))
        if not self._due(new, policy.rows, policy.age, policy.min_rows, state.drift_checked):
            return look
        begin = state.since if self.forced else _after(state.drift_end, state)
        window = self._window(since=begin, last=policy.rows)
        if len(window) == 0:
            return look
        span = WindowSpan(len(window), float(window.times[0]), float(window.times[-1]))
        report = self._drift_report(window)
        estimate = self._estimate(window)
        signals = list(look.signals)
        if report is not None and report.enough:
            signals.append(Signal("drift", report.moved, report.summary, policy.consecutive))
        if estimate is not None:
            signals.append(self._estimate_signal(estimate, window, look))
        after = msgspec.structs.replace(state, drift_end=span.end, drift_checked=self.now)
        return _replace(
            look, state=after, signals=tuple(signals), drift=report, drift_span=span,
            estimate=estimate,
        )  # fmt: skip

    def decay(self, look: MonitoringCheck) -> MonitoringCheck:
        """The live metric of the labels since the last check."""
        state, policy = look.state, self.rules.decay
        new = self._count(since=state.since, labelled_since=_later(state.decay_end))
        if not self._due(new, policy.rows, policy.age, policy.min_rows, state.decay_checked):
            return look
        begin = 0.0 if self.forced else _later(state.decay_end)
        window = self._window(since=state.since, labelled_since=begin, last=policy.rows)
        if len(window) == 0:
            return look
        report = self._decay_report(window)
        ended = float(window.label_times.max())
        span = WindowSpan(len(window), float(window.times[0]), float(window.times[-1]))
        signals = look.signals
        alarmed = any(signal.cause == "decay" for signal in signals)
        if report is not None and report.enough and not alarmed:
            found = Signal("decay", report.degraded, report.summary, policy.consecutive)
            signals = (*signals, found)
        after = msgspec.structs.replace(state, decay_end=ended, decay_checked=self.now)
        return _replace(look, state=after, signals=signals, decay=report, decay_span=span)

    def sequential(self, look: MonitoringCheck) -> MonitoringCheck:
        """The detector's verdict on every new label."""
        holdout = self.reference.holdout
        if holdout is None:
            return look
        state = self._accepted(look.state, holdout)
        look = _replace(look, state=state)
        begin = _later(state.cursor)
        window = self._window(since=state.since, labelled_since=begin, last=LABELS_PER_CHECK)
        if len(window) == 0:
            return look
        losses = row_losses(holdout.task, window.actual, window.outputs)
        detector = state.detector or self._detector(holdout)
        detector = msgspec.structs.replace(detector)
        detector.update(losses)
        newest = float(window.label_times.max())
        said = None
        if detector.alarm:
            said = _alarm(detector, losses)
            detector.reset()
        after = msgspec.structs.replace(state, detector=detector, cursor=newest)
        signals = (Signal("decay", True, said, new_evidence=self.kept is not None),) if said else ()
        return _replace(look, state=after, sequential=said, signals=(*look.signals, *signals))

    def _detector(self, holdout: Holdout) -> PageHinkley:
        return loss_detector(holdout, self.rules.decay, tau=self._autocorrelation_time(holdout))

    def _autocorrelation_time(self, holdout: Holdout) -> float:
        """Whether losses have come in spells lately, whichever version answered."""
        window = self.predictions.window(
            self.reference.model, labelled_since=0.0, last=AUTOCORRELATION_ROWS
        )
        return robust_autocorrelation_time(row_losses(holdout.task, window.actual, window.outputs))

    def _accepted(self, state: MonitoringState, holdout: Holdout) -> MonitoringState:
        """After a retraining that found nothing better, what the version loses is the usual."""
        if self.kept is None or self.kept.at <= state.kept_at:
            return state
        rows = max(self.kept.rows, MIN_RETAINED_ROWS)
        window = self._window(since=state.since, labelled_since=0.0, last=rows)
        order = np.argsort(window.label_times, kind="stable")
        losses = row_losses(holdout.task, window.actual, window.outputs)[order]
        before = state.detector or self._detector(holdout)
        detector = retained_champion_detector(before, holdout.task, losses, self.rules.decay)
        newest = float(window.label_times.max()) if len(window) else state.cursor
        return msgspec.structs.replace(
            state, detector=detector, cursor=newest, kept=state.kept + 1, kept_at=self.kept.at
        )

    def _drift_report(self, window: Window) -> DriftReport | None:
        if window.frame is None or not window.stored.any():
            return None
        kept = window.stored
        columns = self._columns(window)
        policy = self.rules.drift
        confidence = window.confidence[kept]
        sure = None if np.isnan(confidence).any() else confidence
        try:
            return check_drift(
                self.reference.profile, columns, window.outputs[kept], policy, confidence=sure
            )
        except DataError as error:
            return DriftReport(len(window), 0, False, False, f"No verdict: {error.detail}")

    def _columns(self, window: Window) -> dict[str, Any]:
        assert window.frame is not None
        frame, tensor = window.frame[window.stored], self.reference.signature.tensor
        if tensor is not None:
            return dict(tensor_summaries(frame.to_numpy(dtype=np.float64), tensor))
        return {str(name): frame[name].to_numpy() for name in frame.columns}

    def _estimate(self, window: Window) -> AccuracyEstimate | None:
        holdout = self.reference.holdout
        known = window.confidence[~np.isnan(window.confidence)]
        wanted = self.rules.decay.estimate and known.size >= self.rules.decay.min_rows
        if not wanted or holdout is None or holdout.calibration is None:
            return None
        share = METRICS[self.rules.metric].uses_labels
        return estimate_accuracy(
            holdout.calibration,
            known,
            alpha=self.rules.decay.alpha,
            tolerance=self.rules.decay.tolerance if share else 0.0,
        )

    def _estimate_signal(
        self, estimate: AccuracyEstimate, window: Window, look: MonitoringCheck
    ) -> Signal:
        """Where labels of the same rows can judge, confidences have no say."""
        judged = int(window.labelled.sum()) >= self.rules.decay.min_rows
        judged = judged or (look.decay is not None and look.decay.enough)
        needs = self.rules.decay.consecutive
        return Signal("estimate", estimate.degraded and not judged, estimate.summary, needs)

    def _decay_report(self, window: Window) -> DecayReport | None:
        holdout, metric = self.reference.holdout, self.rules.metric
        if holdout is None or metric not in holdout.metrics:
            return None
        regression = self.reference.signature.task == "regression"
        kind = np.float64 if regression else object
        try:
            return check_decay(
                holdout.metrics[metric],
                window.actual.astype(kind),
                window.outputs.astype(kind),
                window.probabilities,
                metric=metric,
                labels=self.reference.signature.labels,
                policy=self.rules.decay,
                tau=self._autocorrelation_time(holdout),
            )
        except ProjectError:
            return None

    def _due(self, new: int, rows: int, age: Duration | None, least: int, checked: float) -> bool:
        if self.forced or new >= rows:
            return True
        return age is not None and new >= least and self.now - checked >= seconds(age)

    def _count(self, **where: Any) -> int:
        model, version = self.reference.model, self.reference.version
        return self.predictions.count(model, version=version, **where)

    def _window(self, **where: Any) -> Window:
        model, version = self.reference.model, self.reference.version
        return self.predictions.window(model, version=version, **where)


def _after(moment: float, state: MonitoringState) -> float:
    """Just later than what was judged; the first rows of all begin with the reign."""
    return state.since if moment <= state.since else _later(moment)


def _later(moment: float) -> float:
    return math.nextafter(moment, math.inf)


def _alarm(detector: PageHinkley, losses: Any) -> str:
    ago = detector.rows - detector.run_start
    return (
        f"Losses have run above what held-out rows promise for {ago:,} labelled rows: the mean of "
        f"the newest {len(losses):,} is {float(np.mean(losses)):.4g}, expected is at most "
        f"{detector.max_expected:.4g}."
    )


def _replace(look: MonitoringCheck, **changes: Any) -> MonitoringCheck:
    return MonitoringCheck(**{**vars(look), **changes})

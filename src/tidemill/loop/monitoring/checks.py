"""One monitoring check of a model: the windows that are due, and what the tests find in them.

Windows do not overlap, so every row is tested once and a false-alarm probability of one in a
hundred stays that. A check is due when enough rows have arrived since the last one, or enough time
has passed. A forced check takes the newest rows whether one is due or not. See decision 095.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from tidemill.errors import DataError, ProjectError
from tidemill.loop.monitoring.reference import ChampionReference
from tidemill.loop.monitoring.state import (
    ChampionKept,
    MonitoringCheck,
    MonitoringRules,
    WindowSpan,
)
from tidemill.metrics import METRICS
from tidemill.policies import Decay, Drift, seconds
from tidemill.steps.decay.autocorrelation import (
    AUTOCORRELATION_ROWS,
    robust_autocorrelation_time,
)
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
from tidemill.steps.export.reference_profile import tensor_summaries
from tidemill.steps.retraining.monitoring_state import MonitoringState
from tidemill.steps.retraining.trigger_policy import Signal
from tidemill.stores.predictions.predictions import Predictions
from tidemill.stores.predictions.windows import Window

#: Labels that the detector processes in one check; the rest follow in the next.
LABELS_PER_CHECK = 50_000


@dataclass(frozen=True)
class CheckRunner:
    """Runs the checks of one champion that are due.

    Attributes:
        now: In seconds since the epoch.
        forced: Check the newest rows even if no check is due.
        kept: The last retraining, where the champion was kept after it.
    """

    reference: ChampionReference
    rules: MonitoringRules
    predictions: Predictions
    now: float
    forced: bool = False
    kept: ChampionKept | None = None

    def run(self, state: MonitoringState) -> MonitoringCheck:
        """Run the sequential detector, the decay check and the drift check."""
        check = MonitoringCheck(msgspec.structs.replace(state, ticked=self.now))
        return self._drift(self._decay(self._sequential(check)))

    def _drift(self, check: MonitoringCheck) -> MonitoringCheck:
        """Drift, and the accuracy estimate, of the rows since the last check."""
        state, policy = check.state, self.rules.drift
        new = self._count(since=_after(state.drift_end, state))
        if not self._is_due(policy, new, state.drift_checked):
            return check
        begin = state.since if self.forced else _after(state.drift_end, state)
        window = self._window(since=begin, last=policy.rows)
        if len(window) == 0:
            return check
        span = _span(window)
        report = self._drift_report(window)
        estimate = self._estimate(window)
        signals = list(check.signals)
        if report is not None and report.enough:
            signals.append(Signal("drift", report.moved, report.summary, policy.consecutive))
        if estimate is not None:
            signals.append(self._estimate_signal(estimate, window, check))
        after = msgspec.structs.replace(state, drift_end=span.end, drift_checked=self.now)
        return _replace(
            check, state=after, signals=tuple(signals), drift=report, drift_span=span,
            estimate=estimate,
        )  # fmt: skip

    def _decay(self, check: MonitoringCheck) -> MonitoringCheck:
        """The live metric of the labels since the last check."""
        state, policy = check.state, self.rules.decay
        new = self._count(since=state.since, labelled_since=_later(state.decay_end))
        if not self._is_due(policy, new, state.decay_checked):
            return check
        begin = 0.0 if self.forced else _later(state.decay_end)
        window = self._window(since=state.since, labelled_since=begin, last=policy.rows)
        if len(window) == 0:
            return check
        report = self._decay_report(window)
        signals = check.signals
        alarmed = any(signal.cause == "decay" for signal in signals)
        if report is not None and report.enough and not alarmed:
            found = Signal("decay", report.degraded, report.summary, policy.consecutive)
            signals = (*signals, found)
        ended = float(window.label_times.max())
        after = msgspec.structs.replace(state, decay_end=ended, decay_checked=self.now)
        return _replace(check, state=after, signals=signals, decay=report, decay_span=_span(window))

    def _sequential(self, check: MonitoringCheck) -> MonitoringCheck:
        """The detector, updated with every new label."""
        holdout = self.reference.holdout
        if holdout is None:
            return check
        state = self._accept_losses(check.state, holdout)
        check = _replace(check, state=state)
        begin = _later(state.cursor)
        window = self._window(since=state.since, labelled_since=begin, last=LABELS_PER_CHECK)
        if len(window) == 0:
            return check
        losses = row_losses(holdout.task, window.actual, window.outputs)
        detector = msgspec.structs.replace(state.detector or self._detector(holdout))
        processed = detector.rows
        detector.update(losses)
        run_start = _run_start(detector, window, processed, state.run_start)
        changed, alarm = state.changed, None
        if detector.alarm:
            alarm = _alarm(detector, losses)
            changed = run_start if changed is None else changed
            run_start = None
            detector.reset()
        after = msgspec.structs.replace(
            state, detector=detector, cursor=float(window.label_times.max()), run_start=run_start,
            changed=changed,
        )  # fmt: skip
        signals = check.signals
        if alarm is not None:
            signals += (Signal("decay", True, alarm, new_evidence=self.kept is not None),)
        return _replace(check, state=after, sequential=alarm, signals=signals)

    def _detector(self, holdout: Holdout) -> PageHinkley:
        return loss_detector(holdout, self.rules.decay, tau=self._autocorrelation_time(holdout))

    def _autocorrelation_time(self, holdout: Holdout) -> float:
        """Of the newest losses, whichever version made the predictions."""
        window = self.predictions.window(
            self.reference.model, labelled_since=0.0, last=AUTOCORRELATION_ROWS
        )
        losses = row_losses(holdout.task, window.actual, window.outputs)
        return robust_autocorrelation_time(losses)

    def _accept_losses(self, state: MonitoringState, holdout: Holdout) -> MonitoringState:
        """After a retraining that kept the champion, expect the losses that it has now."""
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
            state, detector=detector, cursor=newest, run_start=None, changed=None,
            kept_at=self.kept.at,
        )  # fmt: skip

    def _drift_report(self, window: Window) -> DriftReport | None:
        if window.frame is None or not window.stored.any():
            return None
        kept = window.stored
        confidence = window.confidence[kept]
        try:
            return check_drift(
                self.reference.profile,
                self._columns(window),
                window.outputs[kept],
                self.rules.drift,
                confidence=None if np.isnan(confidence).any() else confidence,
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
        holdout, policy = self.reference.holdout, self.rules.decay
        known = window.confidence[~np.isnan(window.confidence)]
        if not policy.estimate or known.size < policy.min_rows:
            return None
        if holdout is None or holdout.calibration is None:
            return None
        share = METRICS[self.rules.metric].uses_labels
        return estimate_accuracy(
            holdout.calibration,
            known,
            alpha=policy.alpha,
            tolerance=policy.tolerance if share else 0.0,
        )

    def _estimate_signal(
        self, estimate: AccuracyEstimate, window: Window, check: MonitoringCheck
    ) -> Signal:
        """The signal of the estimate; off where labels of the same rows decide."""
        labelled = int(window.labelled.sum()) >= self.rules.decay.min_rows
        labelled = labelled or (check.decay is not None and check.decay.enough)
        needs = self.rules.decay.consecutive
        return Signal("estimate", estimate.degraded and not labelled, estimate.summary, needs)

    def _decay_report(self, window: Window) -> DecayReport | None:
        holdout, metric = self.reference.holdout, self.rules.metric
        if holdout is None or metric not in holdout.metrics:
            return None
        signature = self.reference.signature
        kind = np.float64 if signature.task == "regression" else object
        try:
            return check_decay(
                holdout.metrics[metric],
                window.actual.astype(kind),
                window.outputs.astype(kind),
                window.probabilities,
                metric=metric,
                labels=signature.labels,
                policy=self.rules.decay,
            )
        except ProjectError:
            return None

    def _is_due(self, policy: Drift | Decay, new: int, checked: float) -> bool:
        """Whether a check with that many new rows is due; the last one was at `checked`."""
        if self.forced or new >= policy.rows:
            return True
        if policy.age is None or new < policy.min_rows:
            return False
        return self.now - checked >= seconds(policy.age)

    def _count(self, **where: Any) -> int:
        model, version = self.reference.model, self.reference.version
        return self.predictions.count(model, version=version, **where)

    def _window(self, **where: Any) -> Window:
        model, version = self.reference.model, self.reference.version
        return self.predictions.window(model, version=version, **where)


def _span(window: Window) -> WindowSpan:
    return WindowSpan(len(window), float(window.times[0]), float(window.times[-1]))


def _after(moment: float, state: MonitoringState) -> float:
    """The next moment after the last tested row; the start of the version's rows at first."""
    return state.since if moment <= state.since else _later(moment)


def _later(moment: float) -> float:
    return math.nextafter(moment, math.inf)


def _run_start(
    detector: PageHinkley, window: Window, processed: int, before: float | None
) -> float | None:
    """When the detector's current run started: in this window, or `before` it."""
    row = detector.run_start - processed
    if row < 0:
        return before
    return float(window.times[row]) if row < len(window) else None


def _alarm(detector: PageHinkley, losses: Any) -> str:
    rows = detector.rows - detector.run_start
    return (
        f"Losses have exceeded those on held-out rows for {rows:,} labelled rows: the mean of the "
        f"newest {len(losses):,} is {float(np.mean(losses)):.4g}; at most "
        f"{detector.max_expected:.4g} was expected."
    )


def _replace(check: MonitoringCheck, **changes: Any) -> MonitoringCheck:
    return MonitoringCheck(**{**vars(check), **changes})

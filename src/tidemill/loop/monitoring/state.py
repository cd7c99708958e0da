"""The inputs and results of one monitoring check, and a new champion's initial state."""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.policies import Decay, Drift
from tidemill.steps.decay.cbpe import AccuracyEstimate
from tidemill.steps.decay.check import DecayReport
from tidemill.steps.drift.check import DriftReport
from tidemill.steps.retraining.monitoring_state import MonitoringState
from tidemill.steps.retraining.trigger_policy import PolicyState, Signal


@dataclass(frozen=True)
class ChampionKept:
    """A retraining after which the champion was kept: when it ended, and on how many rows."""

    at: float
    rows: int


@dataclass(frozen=True)
class WindowSpan:
    """A monitoring window's rows and time, in seconds since the epoch."""

    rows: int
    start: float
    end: float


@dataclass(frozen=True)
class MonitoringCheck:
    """The results of a check, the state after it, and the signals for the trigger policy.

    A report is None where no check was due; `sequential` is a sentence if the detector alarmed.
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
        """Whether anything was tested."""
        found = (self.drift, self.decay, self.estimate, self.sequential)
        return any(part is not None for part in found)


@dataclass(frozen=True)
class MonitoringRules:
    """The project's policies, and the metric of the decay check."""

    drift: Drift
    decay: Decay
    metric: str


def initial_state(version: str, now: float, before: MonitoringState | None) -> MonitoringState:
    """Return the state of a version that has just become champion.

    Its rows begin at the last check, when it was not champion yet; those of a model's first
    champion begin with its first prediction.
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

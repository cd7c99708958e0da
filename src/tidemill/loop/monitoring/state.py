"""The state between monitoring checks, and the results of one check."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from tidemill.policies import Decay, Drift
from tidemill.steps.decay.cbpe import AccuracyEstimate
from tidemill.steps.decay.check import DecayReport
from tidemill.steps.decay.page_hinkley import PageHinkley
from tidemill.steps.drift.check import DriftReport
from tidemill.steps.retraining.trigger_policy import PolicyState, Signal


class MonitoringState(msgspec.Struct, frozen=True):
    """What is stored of a model between checks; times in seconds since the epoch.

    Attributes:
        policy: The alarms of this version.
        since: Rows predicted earlier belong to an earlier time of the same version as champion.
        ticked: When the last check ran.
        drift_end, decay_end: The last row, and the last label, that was tested.
        drift_checked, decay_checked: When.
        cursor: The last label that the detector processed.
        detector: The sequential detector of losses; None before the first label.
        run_start: When the first row of the detector's current run above expectation was predicted;
            None where there is no run.
        changed: The change point of the first alarm that has not led to a retraining.
        kept: Number of consecutive retrainings after which this version was kept; the last ended
            at `kept_at`.
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
    run_start: float | None = None
    changed: float | None = None
    kept: int = 0
    kept_at: float = 0.0

    @property
    def change_point(self) -> float | None:
        """When the data probably changed, if the model has degraded; None where unknown."""
        return self.run_start if self.changed is None else self.changed


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

"""What monitoring and retraining remember of a model from one check to the next."""

from __future__ import annotations

import msgspec

from tidemill.steps.decay.page_hinkley import PageHinkley
from tidemill.steps.retraining.trigger_policy import PolicyState


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
        kept_at: When the last retraining ended after which this version was kept.
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
    kept_at: float = 0.0

    @property
    def change_point(self) -> float | None:
        """When the data probably changed, if the model has degraded; None where unknown."""
        return self.run_start if self.changed is None else self.changed

"""Retrains again once there is more to learn from: after a change a model has few rows at first.

A retraining that came too soon after a change waits until enough rows are labelled; one that was
done is repeated when there are several times as many, also where a window of the newest rows won.
And each time as many labels came as the champion learned from, a model from newer rows spars with
it (`tidemill.steps.retraining.staleness`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tidemill.errors import ConflictError, NotFoundError
from tidemill.project import Project
from tidemill.steps.retraining.staleness import MAX_TRAINING_ROWS, MAX_TRAINING_ROWS_AFTER_KEPT
from tidemill.steps.retraining.training_windows import window_size
from tidemill.stores.jobs.jobs import Job, NewJob
from tidemill.stores.monitoring.triggers import NewTrigger, Trigger, Triggers
from tidemill.stores.predictions.predictions import Predictions
from tidemill.stores.retraining.contests import ContestRow, Contests

POSTPONED = "postponed"

#: Since when rows are waited for. A resumed job goes by that moment: where losses begin to run high
#: again and again, those since the newest beginning never become enough.
CHANGED = "changed"
FEWEST_SPAR_ROWS = 200


@dataclass(frozen=True)
class RetrainingScheduler:
    """Sees to them.

    Attributes:
        submit: Accepts a job.
        job: Gives a job by its id.
        project: Finds the project that trains a model.
        place: Where a worker finds it.
        champion: The number of a model's champion; None where there is none.
        last_spar: The newest sparring of a model.
        learned: How many rows a version learned from.
    """

    triggers: Triggers
    contests: Contests
    predictions: Predictions
    submit: Callable[[NewJob], tuple[Job, bool]]
    job: Callable[[str], Job]
    project: Callable[[str], Project]
    place: Callable[[str], str]
    champion: Callable[[str], str | None]
    last_spar: Callable[[str], Job | None]
    learned: Callable[[str, str], int]

    def follow(self, model: str) -> Trigger | None:
        """Begin what is due for a model, if anything is; the trigger it is for.

        Raises:
            UnavailableError: The database or MLflow cannot be reached.
        """
        under_way = [t for t in self.triggers.opened(model) if t.retrains]
        if under_way:
            return self._resume(under_way[0])
        return self._grow(model) or self._spar(model)

    def _resume(self, trigger: Trigger) -> Trigger | None:
        """Retrain at last, where the job found too few rows."""
        if trigger.job_id is None:
            return None
        try:
            result = dict(self.job(trigger.job_id).result or {})
        except NotFoundError:
            return None
        waiting: dict[str, Any] | None = result.get(POSTPONED)
        if waiting is None:
            return None
        if self._labelled(trigger.model, waiting[CHANGED]) < waiting["needed"]:
            return None
        return self._retrain(trigger, f"trigger:{trigger.id}:resumed", changed=waiting[CHANGED])

    def _grow(self, model: str) -> Trigger | None:
        """Retrain again when there are many times as many rows as the champion learned from."""
        newest = self.contests.newest(model)
        if newest is None or newest.winner is None:
            return None
        policy = self.project(model)
        growth = policy.contest.growth
        if growth is None or not policy.retrain.on:
            return None
        learned = self._few(newest, policy)
        if learned is None or learned >= policy.contest.growth_limit:
            return None
        if newest.changed is not None:
            rows = self._labelled(model, newest.changed)
            reason = f"{rows:,} labelled rows came since the change; the last retraining had "
            reason += f"{learned:,}."
        else:
            rows = learned + self._labelled(model, newest.cut)
            reason = f"The champion learned from the newest {learned:,} rows; there are {rows:,} "
            reason += "from then on now."
        if rows < round(growth * learned) or self.champion(model) != newest.resulting_champion:
            return None
        new = NewTrigger(model, "labels", reason, cause_key=f"growth:{newest.id}")
        try:
            trigger = self.triggers.open(new)
        except ConflictError:  # somebody was faster, or retrains for another cause
            return None
        return self._retrain(trigger, f"trigger:{trigger.id}")

    def _few(self, won: ContestRow, policy: Project) -> int | None:
        """The rows since the change, or of the window that won; None if all rows taught it."""
        if won.changed is not None:
            return won.learned
        window = next((c.window for c in won.challengers if c.version == won.winner), "")
        return window_size(window, policy.contest.half_life)

    def _spar(self, model: str) -> Trigger | None:
        """Act on the last sparring, or begin one when enough labels came since then."""
        project, champion = self.project(model), self.champion(model)
        if (
            not project.contest.staleness_check
            or "decay" not in project.retrain.on
            or champion is None
        ):
            return None
        last = self.last_spar(model)
        if last is not None and not last.done:
            return None
        result = dict(last.result or {}) if last is not None else {}
        if last is not None and result.get("outdated") and result.get("champion") == champion:
            opened = self._open_outdated(model, last.id, result)
            if opened is not None:
                return opened
        since = max(self._reign(model), last.created if last is not None else 0.0)
        rows = self.predictions.count(model, version=champion, labelled=True, labelled_since=since)
        size = min(self.learned(model, champion), self._most(model))
        if size >= FEWEST_SPAR_ROWS and rows >= size + size // 2:
            self.submit(
                NewJob(
                    "spar", model, project=self.place(model), params={"rows": size},
                    idempotency_key=f"spar:{model}:{champion}:{since:.3f}",
                )
            )  # fmt: skip
        return None

    def _open_outdated(self, model: str, job_id: str, result: dict[str, Any]) -> Trigger | None:
        reason = (
            f"A model of as many rows, but newer ones, has a mean loss of "
            f"{result['partner_loss']:.4g}; the champion has {result['champion_loss']:.4g}."
        )
        new = NewTrigger(
            model, "labels", reason, version=result["champion"], cause_key=f"spar:{job_id}"
        )
        try:
            trigger = self.triggers.open(new)
        except ConflictError:  # it was acted on before
            return None
        return self._retrain(trigger, f"trigger:{trigger.id}")

    def _most(self, model: str) -> int:
        """Rows of a sparring: few after a retraining that did not help, to see soon what does."""
        newest = self.contests.newest(model)
        kept = newest is not None and newest.closed is not None and newest.winner is None
        return MAX_TRAINING_ROWS_AFTER_KEPT if kept else MAX_TRAINING_ROWS

    def _reign(self, model: str) -> float:
        """When the model's last contest ended."""
        newest = self.contests.newest(model)
        return newest.closed or 0.0 if newest is not None else 0.0

    def _retrain(self, trigger: Trigger, key: str, **also: Any) -> Trigger:
        params = {"trigger": trigger.id, "reason": trigger.reason, **also}
        place = self.place(trigger.model)
        job, _ = self.submit(
            NewJob("retrain", trigger.model, project=place, params=params, idempotency_key=key)
        )
        return self.triggers.start(trigger.id, job.id)

    def _labelled(self, model: str, since: float) -> int:
        return self.predictions.count(model, since=since, labelled=True)

"""Submit the retrainings that become due as labels arrive.

Three things are due in this order, the first that applies:

1. A postponed retraining resumes once enough rows since the change are labelled.
2. A model that was trained on few rows is retrained once there are several times as many.
3. A staleness check runs each time as many labels have arrived as the champion was trained on; if
   it finds the champion out of date, the model is retrained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tidemill.errors import ConflictError, NotFoundError
from tidemill.loop.retraining.jobs import (
    STALENESS_CHECK,
    STALENESS_KINDS,
    Postponement,
    StalenessResult,
    Submit,
    read_retraining_result,
    read_staleness_result,
    submit_retraining,
)
from tidemill.steps.retraining.staleness import MAX_TRAINING_ROWS, MAX_TRAINING_ROWS_AFTER_KEPT
from tidemill.steps.retraining.training_windows import window_size
from tidemill.stores.jobs.jobs import Job, Jobs, NewJob
from tidemill.stores.monitoring.triggers import NewTrigger, Trigger, Triggers
from tidemill.stores.predictions.predictions import Predictions
from tidemill.stores.projects import KnownProject
from tidemill.stores.retraining.contests import ContestRow, Contests

#: No staleness check of champions trained on fewer rows.
MIN_TRAINING_ROWS = 200


@dataclass(frozen=True)
class RetrainingScheduler:
    """Submits due retrainings and staleness checks.

    Attributes:
        submit: Submits a job.
        project: Returns the project that trains a model.
        champion: Returns the number of a model's champion, or None.
        rows_trained: Returns how many rows a version was trained on.
    """

    triggers: Triggers
    contests: Contests
    predictions: Predictions
    jobs: Jobs
    submit: Submit
    project: Callable[[str], KnownProject]
    champion: Callable[[str], str | None]
    rows_trained: Callable[[str, str], int]

    def submit_due(self, model: str) -> Trigger | None:
        """Submit what is due for a model; return the trigger of a submitted retraining.

        Raises:
            UnavailableError: The database or MLflow cannot be reached.
        """
        for trigger in self.triggers.opened(model):
            if trigger.retrains:
                return self._resume(trigger)
        return self._retrain_on_growth(model) or self._check_staleness(model)

    def _resume(self, trigger: Trigger) -> Trigger | None:
        """Resubmit a postponed retraining if enough rows since the change are labelled."""
        if trigger.job_id is None:
            return None
        try:
            job = self.jobs.get(trigger.job_id)
        except NotFoundError:
            return None
        postponed = read_retraining_result(job.result).postponed
        if postponed is None:
            return None
        since = postponed.changed or 0.0
        if self._labelled(trigger.model, since) < postponed.needed:
            return None
        return self._submit(trigger, resumed=postponed)

    def _retrain_on_growth(self, model: str) -> Trigger | None:
        """Retrain a champion that was trained on few rows, when there are many times as many."""
        newest = self.contests.newest(model)
        if newest is None or newest.winner is None:
            return None
        project = self.project(model).project
        growth = project.contest.growth
        if growth is None or not project.retrain.on:
            return None
        trained = self._rows_of_winner(newest)
        if trained is None:
            return None
        if newest.changed is not None:
            rows = self._labelled(model, newest.changed)
            reason = (
                f"{rows:,} labelled rows have arrived since the change; the champion was trained"
                f" on {trained:,}."
            )
        else:
            rows = trained + self._labelled(model, newest.cut)
            reason = (
                f"The champion was trained on the newest {trained:,} rows; there are {rows:,} now."
            )
        if rows < round(growth * trained) or self.champion(model) != newest.resulting_champion:
            return None
        return self._open(NewTrigger(model, "labels", reason, cause_key=f"growth:{newest.id}"))

    def _rows_of_winner(self, won: ContestRow) -> int | None:
        """Rows since the change, or of the training window that won; None if all rows did."""
        if won.changed is not None:
            return won.learned
        window = next((c.window for c in won.challengers if c.version == won.winner), "")
        return window_size(window)

    def _check_staleness(self, model: str) -> Trigger | None:
        """Retrain if the last check found the champion outdated, else submit a check that is due.

        One is due when half as many rows again as it trains on are labelled.
        """
        known, champion = self.project(model), self.champion(model)
        enabled = known.project.contest.staleness_check and "decay" in known.project.retrain.on
        if not enabled or champion is None:
            return None
        last = self._last_check(model)
        if last is not None and not last.done:
            return None
        if last is not None:
            found = read_staleness_result(last.result)
            if found.outdated and found.champion == champion:
                opened = self._open_outdated(last, found)
                if opened is not None:
                    return opened
        newest = self.contests.newest(model)
        since = max(_closed(newest), last.created if last is not None else 0.0)
        rows = self.predictions.count(model, version=champion, labelled=True, labelled_since=since)
        size = min(self.rows_trained(model, champion), _max_training_rows(newest))
        if size >= MIN_TRAINING_ROWS and rows >= size + size // 2:
            key = f"{STALENESS_CHECK}:{model}:{champion}:{since:.3f}"
            params = {"rows": size}
            self.submit(
                NewJob(STALENESS_CHECK, model, known.reference, params, idempotency_key=key)
            )
        return None

    def _last_check(self, model: str) -> Job | None:
        found = [
            job
            for kind in STALENESS_KINDS
            for job in self.jobs.page(model=model, kind=kind, limit=1).items
        ]
        return max(found, key=lambda job: job.id, default=None)

    def _open_outdated(self, check: Job, found: StalenessResult) -> Trigger | None:
        reason = (
            f"A model trained on as many but newer rows has a mean loss of {found.newer_loss:.4g};"
            f" the champion has {found.champion_loss:.4g}."
        )
        key = f"{check.kind}:{check.id}"
        return self._open(
            NewTrigger(str(check.model), "labels", reason, version=found.champion, cause_key=key)
        )

    def _open(self, new: NewTrigger) -> Trigger | None:
        try:
            trigger = self.triggers.open(new)
        except ConflictError:  # already opened for this cause, or another retraining has begun
            return None
        return self._submit(trigger)

    def _submit(self, trigger: Trigger, *, resumed: Postponement | None = None) -> Trigger:
        reference = self.project(trigger.model).reference
        return submit_retraining(self.submit, self.triggers, trigger, reference, resumed=resumed)

    def _labelled(self, model: str, since: float) -> int:
        return self.predictions.count(model, since=since, labelled=True)


def _closed(contest: ContestRow | None) -> float:
    """When a model's newest contest ended; 0 where none has."""
    return contest.closed or 0.0 if contest is not None else 0.0


def _max_training_rows(newest: ContestRow | None) -> int:
    """Fewer rows after a contest that the champion won, so that the next check comes sooner."""
    kept = newest is not None and newest.closed is not None and newest.winner is None
    return MAX_TRAINING_ROWS_AFTER_KEPT if kept else MAX_TRAINING_ROWS

"""Retraining: from a trigger to a new champion, or to the champion that stays.

1. A trigger's job (`jobs.submit_retraining`) runs `RetrainingService.run` in a worker.
2. It collects the labelled predictions, with the change point that the alarm found. If too few rows
   have been labelled since the change, the job ends as postponed.
3. It trains challengers on several training windows (`challengers`), holding out the newest rows.
4. It opens a contest of the champion with the challengers and with former champions. Without
   labelled predictions or without a champion, the new version goes to the gate instead.
5. The monitor calls `RetrainingService.advance` after every check. It decides the contest as labels
   arrive (`contest`): a challenger that is shown to be better becomes champion.
6. Where no contest is open, it submits the retrainings that are due (`scheduler`): postponed ones,
   and those for which there is more to train on.
7. Where none is due, it compares a new champion with the former one, which may return
   (`probation`).

Every step can be repeated after a worker died: a job opens one contest, and a trigger closes once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from tidemill.errors import BundleError, NotFoundError
from tidemill.loop.promotion.challenge import AppendEntry, end_canary
from tidemill.loop.promotion.promote import GATE_TAG, promote
from tidemill.loop.promotion.transitions import ROLLED_BACK_TAG, AuditTransition
from tidemill.loop.retraining.challengers import TrainedChallengers, train_challengers
from tidemill.loop.retraining.contest import ContestService
from tidemill.loop.retraining.feedback_data import RetrainingData, collect_feedback
from tidemill.loop.retraining.jobs import (
    GateOutcome,
    OpenedContest,
    Postponement,
    RetrainingParams,
    RetrainingResult,
    read_retraining_params,
)
from tidemill.loop.retraining.probation import ProbationService
from tidemill.loop.retraining.scheduler import RetrainingScheduler
from tidemill.loop.training.progress import OnProgress
from tidemill.policies import Cause
from tidemill.project import Project
from tidemill.settings import Settings
from tidemill.steps.retraining.monitoring_state import MonitoringState
from tidemill.stores.jobs.jobs import Job
from tidemill.stores.mlflow.versions import CHAMPION, ModelVersion
from tidemill.stores.model_metrics import record_metrics
from tidemill.stores.monitoring.results import MonitoringResults
from tidemill.stores.monitoring.triggers import Trigger
from tidemill.stores.retraining.contests import ContestChallenger, ContestRow, NewContest

#: Causes that say the champion has degraded; only they wait for more rows since the change.
DEGRADATION: tuple[Cause, ...] = ("decay", "estimate")


@dataclass(frozen=True)
class JobSteps:
    """What a worker provides to a retraining job.

    Attributes:
        on_progress: Reports the training's progress.
        enter_promotion: Reports that the job begins to change versions; raises if the job was
            cancelled or given to another worker.
        train: Trains on the project's own data, and returns the registered version.
        discard_attempt: Removes runs and versions of an earlier attempt at the job.
    """

    on_progress: OnProgress
    enter_promotion: Callable[[], None]
    train: Callable[[], RetrainingResult]
    discard_attempt: Callable[[], None]


@dataclass(frozen=True)
class RetrainingService:
    """Runs retraining jobs, and advances what they lead to.

    Attributes:
        audit_transition, append_entry: Write the audit log.
    """

    settings: Settings
    contests: ContestService
    scheduler: RetrainingScheduler
    probation: ProbationService
    audit_transition: AuditTransition
    append_entry: AppendEntry

    def advance(self, model: str) -> None:
        """Decide the model's contest; else submit due retrainings; else end a probation.

        Raises:
            UnavailableError: MLflow or the database cannot be reached.
        """
        if self.contests.advance(model) is None and self.scheduler.submit_due(model) is None:
            self.probation.advance(model)

    def run(self, job: Job, project: Project, steps: JobSteps) -> RetrainingResult:
        """Run a retraining job.

        Args:
            project: The job's project; runs and versions carry its tags.
        """
        contest = self.contests.contests.by_job(job.id)
        if contest is None:
            params = read_retraining_params(job)
            trigger = self._trigger(params)
            champion = self._champion_with_bundle(project.name)
            data = None
            if champion is not None:
                changed = self._change_point(params, trigger, champion)
                data = collect_feedback(self.contests.predictions, project, changed)
            if champion is None or data is None:
                return self._train_for_gate(job, project, steps)
            postponed = _postponement(project, trigger, data)
            if postponed is not None:
                return RetrainingResult(project.name, postponed=postponed)
            if job.attempts > 1:
                steps.discard_attempt()
            trained = self._train(project, data, params, steps)
            contest = self._open_contest(job, project, champion, data, trained)
        steps.enter_promotion()
        return self._first_decision(contest)

    def _trigger(self, params: RetrainingParams) -> Trigger | None:
        return None if params.trigger is None else self.contests.triggers.find(params.trigger)

    def _champion_with_bundle(self, model: str) -> ModelVersion | None:
        """The champion; None where there is none, or it has no bundle to compare with."""
        try:
            champion = self.contests.registry.by_alias(model, CHAMPION)
            if champion is not None:
                self.contests.bundle(model, champion.number)
        except (BundleError, NotFoundError):
            return None
        return champion

    def _change_point(
        self, params: RetrainingParams, trigger: Trigger | None, champion: ModelVersion
    ) -> float | None:
        """When the data changed, in seconds since the epoch; None where no change is known.

        It comes from the postponed job, from the alarm that opened the trigger, from an alarm since
        that has not led to a retraining, or from the contest that made the champion.
        """
        if params.changed is not None:
            return params.changed
        if trigger is not None and trigger.changed is not None:
            return trigger.changed
        row = MonitoringResults(self.contests.database).get(champion.name)
        if row is not None and row.version == champion.number:
            changed = msgspec.convert(row.state, MonitoringState).changed
            if changed is not None:
                return changed
        newest = self.contests.contests.newest(champion.name)
        if newest is None or newest.winner is None or newest.resulting_champion != champion.number:
            return None
        return newest.changed

    def _train(
        self, project: Project, data: RetrainingData, params: RetrainingParams, steps: JobSteps
    ) -> TrainedChallengers:
        settings = self.settings
        trained = train_challengers(
            project,
            data.feedback,
            tracking_uri=settings.mlflow_uri,
            registry_uri=settings.registry_uri,
            artifact_root=settings.artifact_root,
            overrides=params.overrides or {},
            trials=params.trials,
            only=params.only or (),
            on_progress=steps.on_progress,
        )
        for new in trained.challengers:
            record_metrics(
                self.contests.database, project.name, new.version, new.metrics, source="training",
                run_id=new.run_id,
            )  # fmt: skip
        return trained

    def _open_contest(
        self,
        job: Job,
        project: Project,
        champion: ModelVersion,
        data: RetrainingData,
        trained: TrainedChallengers,
    ) -> ContestRow:
        """Open the contest; the job has done its work once the row is written."""
        new = [ContestChallenger(each.version, each.window) for each in trained.challengers]
        former = self._former_champions(project, champion)
        feedback = data.feedback
        contest = self.contests.contests.open(
            NewContest(
                model=project.name,
                champion=champion.number,
                challengers=(*new, *former),
                cut=feedback.cut,
                learned=data.since if data.since is not None else len(feedback.times),
                scale=data.scale,
                changed=feedback.changed,
                trigger_id=read_retraining_params(job).trigger,
                job_id=job.id,
            )
        )
        end_canary(
            self.settings.shelf,
            project.name,
            reason=f"Version {new[0].version} is the challenger now.",
            audit=self.append_entry,
        )
        registry = self.contests.registry
        registry.set_challenger(registry.version(project.name, new[0].version))
        return contest

    def _former_champions(
        self, project: Project, champion: ModelVersion
    ) -> list[ContestChallenger]:
        """Former champions with the same inputs, newest first: old conditions may be back."""
        own = self.contests.bundle(project.name, champion.number).signature
        found: list[ContestChallenger] = []
        for version in self.contests.registry.versions(project.name):
            if len(found) == project.contest.archived:
                break
            if version.stage != "Archived" or version.tags.get(ROLLED_BACK_TAG):
                continue
            try:
                other = self.contests.bundle(project.name, version.number).signature
            except (BundleError, NotFoundError):
                continue
            same_inputs = set(other.names) <= set(own.names) and other.tensor == own.tensor
            if same_inputs and (other.task, other.target) == (own.task, own.target):
                found.append(ContestChallenger(version.number, "former champion", former=True))
        return found

    def _first_decision(self, contest: ContestRow) -> RetrainingResult:
        """The job's result, after the contest was decided on the held-out rows if they suffice."""
        decision = self.contests.advance(contest.model)
        best = next(c for c in contest.challengers if not c.former)
        version = self.contests.registry.version(contest.model, best.version)
        return RetrainingResult(
            model=contest.model,
            version=version.number,
            run_id=version.run_id,
            candidate=version.candidate,
            metrics=dict(version.metrics),
            contest=OpenedContest(
                contest.id,
                contest.state if decision is None else decision.state,
                "" if decision is None else decision.reason,
                tuple(challenger.name for challenger in contest.challengers),
            ),
        )

    def _train_for_gate(self, job: Job, project: Project, steps: JobSteps) -> RetrainingResult:
        """Train on the project's data; the version stays challenger if the gate refuses it."""
        result = steps.train()
        steps.enter_promotion()
        return msgspec.structs.replace(result, gate=self._gate(job, project, str(result.version)))

    def _gate(self, job: Job, project: Project, number: str) -> GateOutcome:
        """The gate's verdict; an earlier attempt at the job may have asked already."""
        registry = self.contests.registry
        version = registry.version(project.name, number)
        if CHAMPION in version.aliases:
            return GateOutcome(True)
        if version.tags.get(f"{GATE_TAG}verdict") == "failed":
            return GateOutcome(False, (version.tags.get(f"{GATE_TAG}reason", ""),))
        verdict = promote(
            project,
            registry,
            version.name,
            version=number,
            reason=read_retraining_params(job).reason,
            actor=f"job:{job.id}",
            audit=self.audit_transition,
        )
        return GateOutcome(verdict.promoted, tuple(verdict.reasons))


def _postponement(
    project: Project, trigger: Trigger | None, data: RetrainingData
) -> Postponement | None:
    """What an automatic retraining waits for, where the change is too recent to train on."""
    since, needed = data.since, project.contest.wait
    if since is None or since >= needed:
        return None
    if trigger is None or trigger.cause not in DEGRADATION:
        return None
    return Postponement(since, needed, data.feedback.changed)

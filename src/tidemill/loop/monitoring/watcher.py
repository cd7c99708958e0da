"""The monitor: checks models, decides on triggers and follows them up.

    result = watcher.check("churn")    # one check of one model
    watcher.run(stop, every=30.0)      # all models, repeatedly

A check runs the tests that are due (`tidemill.loop.monitoring.checks`), lets the policy decide
(`tidemill.steps.retraining.trigger_policy`), and writes findings, state and triggers in one
transaction. What follows from a trigger (its file, its job, its end) is completed in every check,
so a process that dies in between loses nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tidemill.errors import (
    ConflictError,
    NotFoundError,
    ProjectError,
    TidemillError,
    UnavailableError,
)
from tidemill.loop.monitoring.checks import CheckRunner
from tidemill.loop.monitoring.reference import ChampionReference, ChampionReferences
from tidemill.loop.monitoring.results import metrics_of, results_of, verdict_of
from tidemill.loop.monitoring.state import (
    ChampionKept,
    MonitoringCheck,
    MonitoringRules,
    initial_state,
)
from tidemill.loop.monitoring.trigger_actions import TriggerActions
from tidemill.loop.monitoring.trigger_files import TriggerFiles
from tidemill.metrics import default_metric
from tidemill.policies import Challenge, Decay, Drift, Retraining
from tidemill.project import Project
from tidemill.steps.retraining.monitoring_state import MonitoringState
from tidemill.steps.retraining.trigger_policy import (
    TriggerContext,
    TriggerDecision,
    TriggerProposal,
    decide_triggers,
)
from tidemill.stores.monitoring.results import (
    MonitoredModel,
    MonitoringResults,
    MonitoringUpdate,
    TriggerClosure,
)
from tidemill.stores.monitoring.triggers import NewTrigger, Trigger, Triggers
from tidemill.stores.predictions.predictions import Predictions

logger = logging.getLogger(__name__)

EVERY_SECONDS = 30.0
ATTEMPTS = 3

#: For models that no known project trains: alarms are reported, and nothing can be retrained.
REPORT_ONLY = Retraining(on=(), report=("drift", "decay", "estimate"))

#: Takes a model, its champion's version and the policy for its canary.
CheckCanary = Callable[[str, str, Challenge], object]


@dataclass(frozen=True)
class WatchResult:
    """The result of one check of a model; `why` explains the policy's decision."""

    model: str
    version: str
    why: str
    verdict: Mapping[str, Any]
    checked: bool
    opened: tuple[Trigger, ...] = ()


@dataclass(frozen=True)
class Watcher:
    """Checks models.

    Attributes:
        project: Returns the project that trains a model; raises NotFoundError for an unknown one.
        advance_retraining: Advances a model's contest and retrainings; None does not.
        check_canary: Takes a canary that is worse than allowed out of the traffic.
        clock: Returns seconds since the epoch.
    """

    predictions: Predictions
    references: ChampionReferences
    monitoring_results: MonitoringResults
    triggers: Triggers
    trigger_actions: TriggerActions
    files: TriggerFiles
    project: Callable[[str], Project]
    advance_retraining: Callable[[str], object] | None = None
    check_canary: CheckCanary | None = None
    clock: Callable[[], float] = time.time

    def check(self, model: str, *, forced: bool = False) -> WatchResult:
        """Check a model, and follow up its triggers, canary and contest.

        Args:
            forced: Check the newest rows even if no check is due.

        Raises:
            NotFoundError: The model has no champion.
            UnavailableError: The database cannot be reached, or MLflow where it is needed.
        """
        for _ in range(ATTEMPTS):
            try:
                result = self._check(model, forced)
                break
            except ConflictError as error:  # another process checked it at the same moment
                conflict = error
        else:
            raise conflict
        self.trigger_actions.complete(model)
        self._check_canary(result)
        self._advance(model)
        return result

    def models(self) -> list[str]:
        """Return the models that have predictions."""
        return self.predictions.models()

    def check_all(self, names: Sequence[str] = ()) -> list[WatchResult]:
        """Check models, and open triggers for dropped files; no names means all models.

        An error with one model is logged, and the others are checked.

        Raises:
            UnavailableError: A server was unavailable; everything else was done.
        """
        self.files.open_dropped(self.trigger_actions.request)
        results: list[WatchResult] = []
        unavailable: UnavailableError | None = None
        for model in names or self.models():
            try:
                results.append(self.check(model))
            except NotFoundError as error:
                logger.debug("%s is not monitored: %s", model, error)
            except UnavailableError as error:
                unavailable = error
            except TidemillError as error:
                logger.warning("%s could not be checked: %s", model, error)
            except Exception:
                logger.exception("%s could not be checked", model)
        if unavailable is not None:
            raise unavailable
        return results

    def run(self, stop: threading.Event, names: Sequence[str] = (), *, every: float) -> None:
        """Check all models every `every` seconds until `stop` is set; retry during outages."""
        outage = False
        while not stop.is_set():
            started = time.monotonic()
            try:
                self.check_all(names)
                outage = False
            except UnavailableError as error:
                if not outage:
                    logger.warning("monitoring is paused: %s", error)
                outage = True
            stop.wait(max(0.1, every - (time.monotonic() - started)))

    def _check(self, model: str, forced: bool) -> WatchResult:
        reference = self.references.of(model)
        policy, rules = self._policies(model, reference)
        now = self.clock()
        row = self.monitoring_results.get(model)
        before = None if row is None else msgspec.convert(row.state, MonitoringState)
        same_version = before is not None and before.policy.version == reference.version
        state = before if before and same_version else initial_state(reference.version, now, before)
        newest = self.triggers.newest(model)
        kept = _champion_kept(newest, state)
        runner = CheckRunner(reference, rules, self.predictions, now, forced, kept)
        check = runner.run(state)
        context = self._context(model, check.state, newest, now)
        decision = decide_triggers(policy, check.state.policy, check.signals, context)
        last = row.verdict if row is not None and same_version else None
        verdict = verdict_of(check, decision, rules.metric, now, last)
        replaced = before is not None and not same_version
        opened = self._save(reference, check, decision, verdict, row, replaced=replaced)
        return WatchResult(
            model, reference.version, decision.why, verdict, check.checked, tuple(opened)
        )

    def _save(
        self,
        reference: ChampionReference,
        check: MonitoringCheck,
        decision: TriggerDecision,
        verdict: Mapping[str, Any],
        row: MonitoredModel | None,
        *,
        replaced: bool,
    ) -> list[Trigger]:
        """Write everything in one transaction; return the triggers that were opened."""
        state = msgspec.structs.replace(check.state, policy=decision.state)
        return self.monitoring_results.save(
            MonitoringUpdate(
                model=reference.model,
                version=reference.version,
                state=msgspec.to_builtins(state),
                verdict=verdict,
                results=results_of(check, decision),
                metrics=metrics_of(check),
                triggers=[_new_trigger(reference, each, check) for each in decision.proposals],
                closing=self._closures(reference.model, decision, replaced=replaced),
                previous=None if row is None else row.updated,
            )
        )

    def _policies(
        self, model: str, reference: ChampionReference
    ) -> tuple[Retraining, MonitoringRules]:
        task = reference.signature.task
        try:
            project = self.project(model)
        except (NotFoundError, ProjectError) as error:
            logger.debug("%s is monitored with the default policies: %s", model, error)
            rules = MonitoringRules(Drift(), Decay(), default_metric(task))
            return REPORT_ONLY, rules
        metric = project.decay.metric or project.gate.metric or default_metric(task)
        return project.retrain, MonitoringRules(project.drift, project.decay, metric)

    def _context(
        self, model: str, state: MonitoringState, newest: Trigger | None, now: float
    ) -> TriggerContext:
        opened = self.triggers.opened(model)
        active = next((trigger.id for trigger in opened if trigger.retrains), None)
        retrained = None if newest is None else newest.time
        since = max(state.since, retrained or 0.0)
        labels = self.predictions.count(model, labelled_since=since)
        causes = frozenset(t.cause for t in opened)
        return TriggerContext(now, retrained, labels, active, causes)

    def _closures(
        self, model: str, decision: TriggerDecision, *, replaced: bool
    ) -> list[TriggerClosure]:
        """Reporting triggers whose alarm is over, or was about a champion that was replaced."""
        found: list[TriggerClosure] = []
        for trigger in self.triggers.opened(model):
            if trigger.retrains:
                continue
            if trigger.cause in decision.over:
                found.append((trigger.id, "cleared", {"cleared": "The alarm is over."}))
            elif replaced:
                why = f"Version {decision.state.version} is champion now."
                found.append((trigger.id, "cleared", {"cleared": why}))
        return found

    def _check_canary(self, result: WatchResult) -> None:
        if self.check_canary is None:
            return
        try:
            policy = self.project(result.model).challenge
        except (NotFoundError, ProjectError):
            policy = Challenge()
        self.check_canary(result.model, result.version, policy)

    def _advance(self, model: str) -> None:
        if self.advance_retraining is None:
            return
        try:
            self.advance_retraining(model)
        except TidemillError as error:
            logger.warning("the contest of %s could not be evaluated: %s", model, error)


def _champion_kept(newest: Trigger | None, state: MonitoringState) -> ChampionKept | None:
    """The last retraining, if this version was kept after it."""
    if newest is None or newest.state != "kept champion" or newest.closed is None:
        return None
    if newest.closed < state.policy.began:
        return None
    contest = (newest.evidence or {}).get("contest") or {}
    return ChampionKept(newest.closed, int(contest.get("rows") or 0))


def _new_trigger(
    reference: ChampionReference, proposal: TriggerProposal, check: MonitoringCheck
) -> NewTrigger:
    reports = {"drift": check.drift, "decay": check.decay, "estimate": check.estimate}
    evidence: dict[str, Any] = {"sequential": check.sequential} if check.sequential else {}
    report = reports.get(proposal.cause)
    if report is not None:
        evidence["report"] = _short(msgspec.to_builtins(report))
    degraded = proposal.cause in ("decay", "estimate")
    return NewTrigger(
        model=reference.model,
        cause=proposal.cause,
        reason=proposal.reason,
        version=reference.version,
        cause_key=proposal.key,
        retrains=proposal.retrains,
        evidence=evidence,
        changed=check.state.change_point if degraded else None,
    )


def _short(report: dict[str, Any]) -> dict[str, Any]:
    """The report without its pictures, and of the features only those that drifted."""
    features = report.get("features")
    if features is not None:
        drifted = [f for f in features if f["drifted"]][:20]
        report = {**report, "features": [{**f, "bars": None} for f in drifted]}
    for name in ("output", "confidence"):
        if isinstance(report.get(name), dict):
            report = {**report, name: {**report[name], "bars": None}}
    return report

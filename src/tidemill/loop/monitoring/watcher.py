"""Watching: look at what a model was asked and answered, decide, and see to what follows.

    tick = watcher.tick("churn")     # one look at one model
    watcher.run(stop, every=30.0)    # all models, again and again

A look makes the checks that are due (`tidemill.loop.monitoring.checks`), lets the policy decide
(`tidemill.steps.retraining.trigger_policy`) and writes what was found, the state and the triggers
in one transaction.
What follows from a trigger (its file, its job, its end) is made good at every tick, so that a
process that dies in between loses nothing.
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
from tidemill.loop.monitoring.checks import (
    ChampionKept,
    MonitoringCheck,
    MonitoringRules,
    MonitoringState,
    initial_state,
    run_checks,
)
from tidemill.loop.monitoring.reference import ChampionReference, ChampionReferences
from tidemill.loop.monitoring.results import metrics_of, results_of, verdict_of
from tidemill.loop.monitoring.trigger_actions import TriggerActions
from tidemill.loop.monitoring.trigger_files import TriggerFiles
from tidemill.metrics import default_metric
from tidemill.policies import Challenge, Decay, Drift, Retraining
from tidemill.project import Project
from tidemill.steps.retraining.trigger_policy import (
    TriggerContext,
    TriggerDecision,
    TriggerProposal,
    decide_triggers,
)
from tidemill.stores.monitoring.results import MonitoringResults, MonitoringUpdate, TriggerClosure
from tidemill.stores.monitoring.triggers import NewTrigger, Trigger, Triggers
from tidemill.stores.predictions.predictions import Predictions

logger = logging.getLogger(__name__)

EVERY_SECONDS = 30.0
ATTEMPTS = 3

#: For a model that no project here trains: everything is reported, nothing can be retrained.
REPORT_ONLY = Retraining(on=(), report=("drift", "decay", "estimate"))

ProjectOf = Callable[[str], Project]
Contest = Callable[[str], object]
#: Takes a model, its champion's version and the policy for its challenger.
Guard = Callable[[str, str, Challenge], object]


@dataclass(frozen=True)
class WatchResult:
    """What one look at a model came to."""

    model: str
    version: str
    why: str
    verdict: Mapping[str, Any]
    checked: bool
    opened: tuple[Trigger, ...] = ()


@dataclass(frozen=True)
class Watcher:
    """Looks at models.

    Attributes:
        project: Finds the project that trains a model; NotFoundError where nobody knows one.
        contest: Lets the challengers of a model, if there are any, compete with its champion on
            labelled live rows; None where there is no such thing.
        guard: Takes a canary that is worse than allowed out of the traffic.
        clock: Seconds since the epoch.
    """

    predictions: Predictions
    references: ChampionReferences
    monitoring_results: MonitoringResults
    triggers: Triggers
    trigger_actions: TriggerActions
    files: TriggerFiles
    project: ProjectOf
    contest: Contest | None = None
    guard: Guard | None = None
    clock: Callable[[], float] = time.time

    def check(self, model: str, *, forced: bool = False) -> WatchResult:
        """One look at one model, and what follows from it.

        Args:
            by_hand: Check the newest rows even if no check is due.

        Raises:
            NotFoundError: The model has no champion.
            UnavailableError: The database cannot be reached, or MLflow where it is needed.
        """
        for _ in range(ATTEMPTS):
            try:
                tick = self._look(model, forced)
                break
            except ConflictError as error:  # somebody else looked at the same moment
                overtaken = error
        else:
            raise overtaken
        self.trigger_actions.follow(model)
        self._guard(tick)
        self._compete(model)
        return tick

    def _look(self, model: str, forced: bool) -> WatchResult:
        reference = self.references.of(model)
        policy, rules = self._policies(model, reference)
        now = self.clock()
        held = self.monitoring_results.get(model)
        before = None if held is None else msgspec.convert(held.state, MonitoringState)
        follows = before is not None and before.policy.version == reference.version
        state = before if before and follows else initial_state(reference.version, now, before)
        newest = self.triggers.newest(model)
        kept = _kept(newest, state)
        look = run_checks(reference, rules, self.predictions, state, now, kept=kept, forced=forced)
        facts = self._facts(model, look.state, newest, now)
        decision = decide_triggers(policy, look.state.policy, look.signals, facts)
        last = held.verdict if held is not None and follows else None
        verdict = verdict_of(look, decision, rules.metric, now, last)
        findings = MonitoringUpdate(
            model=model,
            version=reference.version,
            state=msgspec.to_builtins(msgspec.structs.replace(look.state, policy=decision.state)),
            verdict=verdict,
            results=results_of(look, decision),
            metrics=metrics_of(look),
            triggers=[_new_trigger(reference, firing, look) for firing in decision.proposals],
            closing=self._closing(model, decision, replaced=bool(before) and not follows),
            seen=None if held is None else held.updated,
        )
        opened = self.monitoring_results.save(findings)
        return WatchResult(
            model, reference.version, decision.why, verdict, look.checked, tuple(opened)
        )

    def models(self) -> list[str]:
        """The models that can be watched: those that were ever asked."""
        return self.predictions.models()

    def check_all(self, names: Sequence[str] = ()) -> list[WatchResult]:
        """A tick for each model, and whatever trigger files ask for; no names means all.

        What goes wrong with one model is told, and the others go on.

        Raises:
            UnavailableError: Something that was needed is away; what could be done was done.
        """
        self.files.take_up()
        ticks: list[WatchResult] = []
        away: UnavailableError | None = None
        for model in names or self.models():
            try:
                ticks.append(self.check(model))
            except NotFoundError as error:
                logger.debug("%s is not watched: %s", model, error)
            except UnavailableError as error:
                away = error
            except TidemillError as error:
                logger.warning("%s could not be checked: %s", model, error)
            except Exception:
                logger.exception("%s could not be checked", model)
        if away is not None:
            raise away
        return ticks

    def run(self, stop: threading.Event, names: Sequence[str] = (), *, every: float) -> None:
        """Sweep every so many seconds until `stop` is set; outages are told once and outlasted."""
        trouble: str | None = None
        while not stop.is_set():
            started = time.monotonic()
            try:
                self.check_all(names)
                trouble = None
            except UnavailableError as error:
                if trouble is None:
                    logger.warning("watching waits: %s", error)
                trouble = str(error)
            stop.wait(max(0.1, every - (time.monotonic() - started)))

    def _policies(
        self, model: str, reference: ChampionReference
    ) -> tuple[Retraining, MonitoringRules]:
        task = reference.signature.task
        try:
            project = self.project(model)
        except (NotFoundError, ProjectError) as error:
            logger.debug("%s is watched by the default policies: %s", model, error)
            rules = MonitoringRules(Drift(), Decay(), default_metric(task))
            return REPORT_ONLY, rules
        metric = project.decay.metric or project.gate.metric or default_metric(task)
        return project.retrain, MonitoringRules(project.drift, project.decay, metric)

    def _facts(
        self, model: str, state: MonitoringState, newest: Trigger | None, now: float
    ) -> TriggerContext:
        opened = self.triggers.opened(model)
        active = next((trigger.id for trigger in opened if trigger.retrains), None)
        retrained = None if newest is None else newest.time
        since = max(state.since, retrained or 0.0)
        labels = self.predictions.count(model, labelled_since=since)
        causes = frozenset(t.cause for t in opened)
        return TriggerContext(now, retrained, labels, active, causes, state.kept)

    def _closing(
        self, model: str, decision: TriggerDecision, *, replaced: bool
    ) -> list[TriggerClosure]:
        """Triggers that only report, and whose alarm is over or was about another champion."""
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

    def _guard(self, tick: WatchResult) -> None:
        if self.guard is None:
            return
        try:
            policy = self.project(tick.model).challenge
        except (NotFoundError, ProjectError):
            policy = Challenge()
        self.guard(tick.model, tick.version, policy)

    def _compete(self, model: str) -> None:
        if self.contest is None:
            return
        try:
            self.contest(model)
        except TidemillError as error:
            logger.warning("the challengers of %s could not compete: %s", model, error)


def _kept(newest: Trigger | None, state: MonitoringState) -> ChampionKept | None:
    """The last retraining, if it left this version champion."""
    if newest is None or newest.state != "kept champion" or newest.closed is None:
        return None
    if newest.closed < state.policy.began:
        return None
    found = (newest.evidence or {}).get("contest") or {}
    return ChampionKept(newest.closed, int(found.get("rows") or 0))


def _new_trigger(
    reference: ChampionReference, firing: TriggerProposal, look: MonitoringCheck
) -> NewTrigger:
    reports = {"drift": look.drift, "decay": look.decay, "estimate": look.estimate}
    evidence: dict[str, Any] = {"sequential": look.sequential} if look.sequential else {}
    report = reports.get(firing.cause)
    if report is not None:
        evidence["report"] = _short(msgspec.to_builtins(report))
    return NewTrigger(
        model=reference.model,
        cause=firing.cause,
        reason=firing.reason,
        version=reference.version,
        cause_key=firing.key,
        retrains=firing.retrains,
        evidence=evidence,
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

"""Contests: challengers compete with the champion on labelled live rows.

No requests are sent to challengers. Their bundles predict the recorded inputs of labelled
predictions that were made after the last row they were trained on. So a contest costs the champion
no latency, and has the same result whenever it is checked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from tidemill.bundle import Bundle
from tidemill.loop.promotion.promote import store_evidence
from tidemill.loop.promotion.transitions import AuditTransition, PromotionReason, set_champion
from tidemill.loop.retraining.contest_bundles import (
    ContestantBundles,
    cached_bundle,
    label_order,
    labelled_rows,
)
from tidemill.loop.retraining.contest_verdict import ContestComparison, contest_verdict
from tidemill.policies import seconds
from tidemill.project import Project
from tidemill.signature import Task
from tidemill.steps.decay.holdout import row_losses
from tidemill.steps.gate.gate import GateVerdict
from tidemill.steps.retraining.contest import (
    PRIOR_ROWS,
    ContestDecision,
    bounded_losses,
    decide_contest,
    prior_autocorrelation_time,
)
from tidemill.stores.database.database import Database
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import CHAMPION, ModelVersion
from tidemill.stores.model_metrics import record_metrics
from tidemill.stores.monitoring.triggers import Triggers, TriggerState
from tidemill.stores.predictions.predictions import Predictions
from tidemill.stores.retraining.contests import ContestChallenger, ContestRow, Contests

logger = logging.getLogger(__name__)

ACTOR = "contest"
CONTEST_TAG = "tidemill.contest."


@dataclass(frozen=True)
class ContestService:
    """Advances and decides contests.

    Attributes:
        project: Returns the project that trains a model.
        folder: Where the contestants' bundles are kept.
        audit: Records a change of champion.
        trusted: Types that this machine trusts a native fallback with.
    """

    database: Database
    registry: Registry
    predictions: Predictions
    project: Callable[[str], Project]
    folder: Path
    audit: AuditTransition
    trusted: tuple[str, ...] = ()
    clock: Callable[[], float] = time.time
    _loaded: dict[str, tuple[tuple[str, ...], ContestantBundles]] = field(default_factory=dict)

    @property
    def contests(self) -> Contests:
        return Contests(self.database)

    @property
    def triggers(self) -> Triggers:
        return Triggers(self.database)

    def advance(self, model: str) -> ContestDecision | None:
        """Evaluate the model's open contest on the rows labelled so far; end it if decided.

        Returns:
            The decision; None where there is no open contest.

        Raises:
            UnavailableError: MLflow or the database cannot be reached.
        """
        contest = self.contests.opened(model)
        if contest is None:
            return None
        project = self.project(model)
        champion = self.registry.by_alias(model, CHAMPION)
        known = {c.version for c in contest.challengers} | {contest.champion}
        if champion is None or champion.number not in known:
            return self._cancel(contest, champion)
        compared = self._compare(contest, project)
        decision = self._expired(contest, compared.decision, project)
        if decision.state == "open":
            self.contests.record_progress(contest.id, decision.rows, msgspec.to_builtins(decision))
            return decision
        if decision.winner is None:
            self._keep_champion(contest, decision, None)
            return decision
        winner = next(c for c in contest.challengers if c.name == decision.winner)
        verdict = contest_verdict(
            project, contest.model, (winner.version, contest.champion), compared
        )
        if verdict.passed:
            self._promote(contest, winner, verdict, decision)
            return decision
        why = " ".join(verdict.reasons)
        decision = msgspec.structs.replace(decision, state="kept", winner=None, reason=why)
        self._keep_champion(contest, decision, verdict)
        return decision

    def bundle(self, model: str, number: str) -> Bundle:
        """Return a version's bundle, fetched into `folder` when first needed.

        Raises:
            NotFoundError: There is no such version, or it has no bundle.
        """
        return cached_bundle(self.registry, model, number, self.folder)

    def load(
        self,
        contest: ContestRow,
        numbers: tuple[str, ...],
        tau: Callable[[ContestRow, Task], float],
    ) -> ContestantBundles:
        """Return the bundles of versions that compete, loaded when first needed.

        Args:
            numbers: The versions.
            tau: Computes the autocorrelation time of losses before the contest.

        Raises:
            NotFoundError: There is no such version, or it has no bundle.
            BundleError: A model cannot be loaded.
        """
        key = (contest.id, *numbers)
        loaded = self._loaded.get(contest.model)
        if loaded is not None and loaded[0] == key:
            return loaded[1]
        bundles = {number: self.bundle(contest.model, number) for number in numbers}
        task = bundles[contest.champion].signature.task
        found = ContestantBundles(bundles, tau(contest, task), trusted=self.trusted)
        self._loaded[contest.model] = key, found
        return found

    def unload(self, model: str) -> None:
        """Release the bundles of a contest that is over."""
        self._loaded.pop(model, None)

    def _compare(self, contest: ContestRow, project: Project) -> ContestComparison:
        numbers = (contest.champion, *(c.version for c in contest.challengers))
        bundles = self.load(contest, numbers, self._prior_autocorrelation)
        most = project.contest.rows
        rows = labelled_rows(self.predictions, contest.model, contest.cut, bundles.bundles, most)
        evidence = bundles.predict(rows.ids, rows.frame)
        task = bundles.bundles[contest.champion].signature.task
        losses = {
            number: bounded_losses(task, rows.actual, each.predicted, scale=contest.scale)
            for number, each in evidence.items()
        }
        challengers = {c.name: losses[c.version] for c in contest.challengers}
        decision = decide_contest(
            losses[contest.champion], challengers, project.contest, tau=bundles.tau
        )
        return ContestComparison(rows, evidence, decision)

    def _expired(
        self, contest: ContestRow, decision: ContestDecision, project: Project
    ) -> ContestDecision:
        """The decision, or that the champion stays because the contest has lasted too long."""
        age = project.contest.age
        if decision.state != "open" or age is None:
            return decision
        if self.clock() - contest.opened < seconds(age):
            return decision
        why = f"The champion stays, because nothing was decided in {age}. {decision.reason}"
        return msgspec.structs.replace(decision, state="kept", reason=why)

    def _cancel(self, contest: ContestRow, champion: ModelVersion | None) -> ContestDecision:
        number = champion.number if champion is not None else "none"
        why = f"Version {number} became champion meanwhile."
        decision = ContestDecision("kept", contest.rows, 0.0, 0.0, (), why)
        self._keep_champion(contest, decision, None)
        return decision

    def _prior_autocorrelation(self, contest: ContestRow, task: Task) -> float:
        """Autocorrelation time of the champion's losses before the change, known at the start."""
        moment = contest.cut if contest.changed is None else min(contest.changed, contest.cut)
        window = self.predictions.window(
            contest.model, version=contest.champion, until=moment, labelled=True, last=PRIOR_ROWS
        )
        kept = np.flatnonzero(window.label_times <= contest.opened)
        kept = kept[label_order(window, kept)]
        losses = row_losses(task, window.actual[kept], window.outputs[kept])
        return prior_autocorrelation_time(losses)

    def _promote(
        self,
        contest: ContestRow,
        winner: ContestChallenger,
        verdict: GateVerdict,
        decision: ContestDecision,
    ) -> None:
        """Make the winner champion, then close contest and trigger; may be repeated."""
        version = self.registry.version(contest.model, winner.version)
        champion = self.registry.by_alias(contest.model, CHAMPION)
        evidence = {
            "contest": msgspec.to_builtins(decision),
            "verdict": msgspec.to_builtins(verdict),
            "trigger": contest.trigger_id,
        }
        if CHAMPION not in version.aliases:
            store_evidence(self.registry, version, verdict, ACTOR, decision.reason)
            why = PromotionReason("promote", ACTOR, decision.reason, evidence)
            set_champion(self.registry, version, champion, why, self.audit)
        record_metrics(
            self.database, version.name, version.number, dict(verdict.metrics), source="contest",
            run_id=version.run_id,
        )  # fmt: skip
        self._tag_challengers(contest, decision, winner.version)
        self.contests.close(
            contest.id, "won", rows=decision.rows, decision=evidence["contest"],
            winner=winner.version,
        )  # fmt: skip
        self._close_trigger(contest, "promoted", decision, winner.version)

    def _keep_champion(
        self, contest: ContestRow, decision: ContestDecision, verdict: GateVerdict | None
    ) -> None:
        document = msgspec.to_builtins(decision)
        if verdict is not None:
            document["verdict"] = msgspec.to_builtins(verdict)
        self._tag_challengers(contest, decision, None)
        self.contests.close(contest.id, "kept", rows=decision.rows, decision=document)
        self._close_trigger(contest, "kept champion", decision, None)

    def _close_trigger(
        self,
        contest: ContestRow,
        state: TriggerState,
        decision: ContestDecision,
        winner: str | None,
    ) -> None:
        self.unload(contest.model)
        logger.info("%s: %s", contest.model, decision.reason)
        if contest.trigger_id is not None:
            short = {"reason": decision.reason, "rows": decision.rows, "version": winner}
            self.triggers.close(contest.trigger_id, state, {"contest": {"id": contest.id, **short}})

    def _tag_challengers(
        self, contest: ContestRow, decision: ContestDecision, winner: str | None
    ) -> None:
        """Tag each challenger with its result, store the evidence, and retire the new losers."""
        results = {c.name: c for c in decision.contestants}
        for challenger in contest.challengers:
            version = self.registry.version(contest.model, challenger.version)
            tags = {"id": contest.id, "rows": str(decision.rows), "reason": decision.reason}
            tags["state"] = "won" if challenger.version == winner else "lost"
            if (own := results.get(challenger.name)) is not None:
                tags["loss"] = f"{own.loss:.6g}"
                tags["champion_loss"] = f"{decision.champion_loss:.6g}"
                tags["evidence"] = f"{own.better:.4g} of {decision.bar:.4g}"
            self.registry.set_tags(version, {CONTEST_TAG + k: v for k, v in tags.items()})
            if challenger.former:
                continue
            document = {"contest": msgspec.to_builtins(decision), "window": challenger.window}
            path = f"contest/evidence-v{version.number}.json"
            self.registry.log_evidence(version, path, document)
            if challenger.version != winner and CHAMPION not in version.aliases:
                self.registry.retire(version, "None")

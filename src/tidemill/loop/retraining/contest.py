"""Lets challengers compete with a champion on labelled live rows, until one has won or none can.

Nothing is sent to them while requests are answered: their bundles answer the recorded inputs of
predictions whose labels have come, and that were asked after the last row they learned from. So a
contest costs the champion no latency, and gives the same result whenever it is looked at.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from tidemill.loop.promotion.promote import AuditTransition, set_champion, store_evidence
from tidemill.loop.retraining.contest_bundles import (
    ContestantBundles,
    ContestRows,
    cached_bundle,
    label_order,
    labelled_rows,
    take_rows,
)
from tidemill.policies import seconds
from tidemill.project import Project, Task
from tidemill.steps.decay.holdout import row_losses
from tidemill.steps.gate.gate import GateVerdict, VersionEvidence, evaluate_gate
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
from tidemill.stores.monitoring.triggers import Triggers
from tidemill.stores.predictions.predictions import Predictions
from tidemill.stores.retraining.contests import ContestChallenger, ContestRow, Contests

logger = logging.getLogger(__name__)

ACTOR = "contest"
CONTEST_TAG = "tidemill.contest."


class Competing(Protocol):
    """A platform, as far as contests go."""

    def contest(self, model: str) -> None: ...


def contest(platform: Competing, model: str) -> None:
    """Let a model's challengers compete, and retrain again where there is more to learn from."""
    platform.contest(model)


@dataclass(frozen=True)
class ContestService:
    """Judges contests.

    Attributes:
        project: Finds the project that trains a model.
        folder: Where the bundles of those who compete are kept while they do.
        audit: Takes a change of champion.
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
    _competing: dict[str, tuple[tuple[str, ...], ContestantBundles]] = field(default_factory=dict)

    @property
    def contests(self) -> Contests:
        return Contests(self.database)

    @property
    def triggers(self) -> Triggers:
        return Triggers(self.database)

    def judge(self, model: str) -> ContestDecision | None:
        """Look at the model's open contest, and end it if it is decided.

        Returns:
            How it stands; None where there is none.

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
            return self._called_off(contest, champion)
        numbers = (contest.champion, *(c.version for c in contest.challengers))
        competing = self.contestants(contest, numbers, self._memory)
        rows = labelled_rows(
            self.predictions, model, contest.cut, competing.bundles, project.contest.rows
        )
        task = competing.bundles[contest.champion].signature.task
        answers = competing.answers(rows.ids, rows.frame)
        losses = {
            number: bounded_losses(task, rows.actual, outcome.predicted, scale=contest.scale)
            for number, outcome in answers.items()
        }
        names = {c.name: c for c in contest.challengers}
        against = {name: losses[c.version] for name, c in names.items()}
        decision = decide_contest(
            losses[contest.champion], against, project.contest, tau=competing.tau
        )
        decision = self._in_time(contest, decision, project)
        if decision.state == "open":
            self.contests.record_progress(contest.id, decision.rows, msgspec.to_builtins(decision))
            return decision
        verdict = None
        if decision.winner is not None:
            winner = names[decision.winner]
            verdict = contest_verdict(
                project, model, (winner.version, contest.champion), answers, rows, decision
            )
            if verdict.passed:
                self._promote(contest, winner, verdict, decision)
                return decision
            why = " ".join(verdict.reasons)
            decision = msgspec.structs.replace(decision, state="kept", winner=None, reason=why)
        self._keep(contest, decision, verdict)
        return decision

    def _in_time(
        self, contest: ContestRow, decision: ContestDecision, project: Project
    ) -> ContestDecision:
        age = project.contest.age
        if decision.state != "open" or age is None:
            return decision
        if self.clock() - contest.opened < seconds(age):
            return decision
        why = f"The champion stays, because nothing was proven in {age}. {decision.reason}"
        return msgspec.structs.replace(decision, state="kept", reason=why)

    def _called_off(self, contest: ContestRow, champion: ModelVersion | None) -> ContestDecision:
        number = champion.number if champion is not None else "none"
        decision = ContestDecision(
            "kept", contest.rows, 0.0, 0.0, (), f"Version {number} was made champion meanwhile."
        )
        self._keep(contest, decision, None)
        return decision

    def contestants(
        self,
        contest: ContestRow,
        numbers: tuple[str, ...],
        tau: Callable[[ContestRow, Task], float],
    ) -> ContestantBundles:
        """The versions that compete; their bundles are fetched and loaded at the first look.

        Args:
            memory: How long spells lasted before, as a function of the contest.

        Raises:
            NotFoundError: There is no such version, or it has no bundle.
            BundleError: A model cannot be loaded.
        """
        asked = (contest.id, *numbers)
        known = self._competing.get(contest.model)
        if known is not None and known[0] == asked:
            return known[1]
        held = {n: cached_bundle(self.registry, contest.model, n, self.folder) for n in numbers}
        lasted = tau(contest, held[contest.champion].signature.task)
        found = ContestantBundles(held, lasted, trusted=self.trusted)
        self._competing[contest.model] = asked, found
        return found

    def release(self, model: str) -> None:
        """Let go of the bundles of a contest that is over."""
        self._competing.pop(model, None)

    def _memory(self, contest: ContestRow, task: Task) -> float:
        """How long the champion's spells lasted before anything changed, as known at the start."""
        moment = contest.cut if contest.changed is None else min(contest.changed, contest.cut)
        window = self.predictions.window(
            contest.model, version=contest.champion, until=moment, labelled=True, last=PRIOR_ROWS
        )
        kept = np.flatnonzero(window.label_times <= contest.opened)
        kept = kept[label_order(window, kept)]
        return prior_autocorrelation_time(
            row_losses(task, window.actual[kept], window.outputs[kept])
        )

    def _promote(
        self,
        contest: ContestRow,
        winner: ContestChallenger,
        verdict: GateVerdict,
        decision: ContestDecision,
    ) -> None:
        """Crown the winner, and close contest and trigger; done again, it changes nothing."""
        version = self.registry.version(contest.model, winner.version)
        champion = self.registry.by_alias(contest.model, CHAMPION)
        evidence = {
            "contest": msgspec.to_builtins(decision),
            "verdict": msgspec.to_builtins(verdict),
            "trigger": contest.trigger_id,
        }
        if CHAMPION not in version.aliases:
            store_evidence(self.registry, version, verdict, ACTOR, decision.reason)
            set_champion(
                self.registry, version, champion, "promote", decision.reason, ACTOR, evidence,
                self.audit,
            )  # fmt: skip
        record_metrics(
            self.database, version.name, version.number, dict(verdict.metrics), source="contest",
            run_id=version.run_id,
        )  # fmt: skip
        self._mark(contest, decision, winner.version)
        self.contests.close(
            contest.id, "won", rows=decision.rows, decision=evidence["contest"],
            winner=winner.version,
        )  # fmt: skip
        self._close_trigger(contest, "promoted", decision, winner.version)

    def _keep(
        self, contest: ContestRow, decision: ContestDecision, verdict: GateVerdict | None
    ) -> None:
        document = msgspec.to_builtins(decision)
        if verdict is not None:
            document["verdict"] = msgspec.to_builtins(verdict)
        self._mark(contest, decision, None)
        self.contests.close(contest.id, "kept", rows=decision.rows, decision=document)
        self._close_trigger(contest, "kept champion", decision, None)

    def _close_trigger(
        self, contest: ContestRow, state: Any, decision: ContestDecision, winner: str | None
    ) -> None:
        self.release(contest.model)
        logger.info("%s: %s", contest.model, decision.reason)
        if contest.trigger_id is not None:
            short = {"reason": decision.reason, "rows": decision.rows, "version": winner}
            self.triggers.close(contest.trigger_id, state, {"contest": {"id": contest.id, **short}})

    def _mark(self, contest: ContestRow, decision: ContestDecision, winner: str | None) -> None:
        """Leave with each challenger how it did."""
        found = {c.name: c for c in decision.contestants}
        for challenger in contest.challengers:
            version = self.registry.version(contest.model, challenger.version)
            tags = {"id": contest.id, "rows": str(decision.rows), "reason": decision.reason}
            tags["state"] = "won" if challenger.version == winner else "lost"
            if (own := found.get(challenger.name)) is not None:
                tags |= {
                    "loss": f"{own.loss:.6g}",
                    "champion_loss": f"{decision.champion_loss:.6g}",
                }
                tags |= {"evidence": f"{own.better:.4g} of {decision.bar:.4g}"}
            self.registry.set_tags(version, {CONTEST_TAG + k: v for k, v in tags.items()})
            if challenger.former:
                continue
            document = {"contest": msgspec.to_builtins(decision), "window": challenger.window}
            path = f"contest/evidence-v{version.number}.json"
            self.registry.log_evidence(version, path, document)
            if challenger.version != winner and CHAMPION not in version.aliases:
                self.registry.retire(version, "None")


def contest_verdict(
    project: Project,
    model: str,
    versions: tuple[str, str],
    answers: Mapping[str, VersionEvidence],
    rows: ContestRows,
    decision: ContestDecision,
) -> GateVerdict:
    """The gate's own conditions on the rows that decided; the comparison is the contest's.

    Args:
        versions: The winner, and the champion that it is to replace.
    """
    winner, loser = versions
    count = decision.rows
    challenger, champion = (take_rows(answers[version], slice(count)) for version in versions)
    task = "regression" if not challenger.labels else "classification"
    truth, gate = rows.actual[:count], project.gate
    alone = evaluate_gate(challenger, None, truth, gate, task)  # type: ignore[arg-type]
    both = evaluate_gate(challenger, champion, truth, gate, task)  # type: ignore[arg-type]
    compared = both.comparison
    worse = compared is not None and compared.difference < 0
    against = list(alone.reasons) if not alone.passed else []
    if worse and compared is not None:
        values = f"{compared.challenger:.4g}, against {compared.champion:.4g}"
        against.append(f"Its {both.metric} on these rows is {values}.")
    passed = not against
    return msgspec.structs.replace(
        both,
        passed=passed,
        reasons=(decision.reason, *against),
        confidence=1 - project.contest.alpha,
        model=model,
        version=winner,
        champion=loser,
        promoted=passed,
    )

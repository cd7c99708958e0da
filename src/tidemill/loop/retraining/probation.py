"""Probation: after a contest, the former champion keeps competing for a number of labelled rows.

A contest is decided on rows of a few days, and the winner need not stay the better model. So the
former champion's bundle predicts the recorded inputs as well, and becomes champion again as soon as
it is shown to be better under the contest's rules (docs/decisions/175).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import msgspec

from tidemill.errors import BundleError, NotFoundError
from tidemill.loop.promotion.promote import store_evidence
from tidemill.loop.promotion.transitions import ROLLED_BACK_TAG, PromotionReason, set_champion
from tidemill.loop.retraining.contest import ACTOR, ContestService
from tidemill.loop.retraining.contest_bundles import ContestantBundles, labelled_rows
from tidemill.loop.retraining.contest_verdict import ContestComparison, contest_verdict
from tidemill.project import Project
from tidemill.signature import Task
from tidemill.steps.decay.autocorrelation import (
    AUTOCORRELATION_ROWS,
    robust_autocorrelation_time,
)
from tidemill.steps.decay.holdout import row_losses
from tidemill.steps.gate.gate import GateVerdict
from tidemill.steps.retraining.contest import ContestDecision, bounded_losses, decide_probation
from tidemill.stores.mlflow.versions import CHAMPION, ModelVersion
from tidemill.stores.retraining.contests import ContestRow

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProbationService:
    """Compares winners of contests with the champions they replaced."""

    contests: ContestService

    def advance(self, model: str) -> ContestDecision | None:
        """Evaluate the newest promotion, and revert it if the former champion was better.

        Returns:
            The decision; None where nothing is on probation, or too few rows are labelled.

        Raises:
            UnavailableError: MLflow or the database cannot be reached.
        """
        service = self.contests
        contest = service.contests.newest(model)
        if contest is None or contest.winner is None or contest.probation is not None:
            return None
        project = service.project(model)
        if project.contest.probation is None or self._is_retraining(model):
            return None
        champion = service.registry.by_alias(model, CHAMPION)
        if champion is None or champion.number != contest.winner:
            return None
        try:
            former = service.registry.version(model, contest.champion)
            numbers = (champion.number, former.number)
            bundles = service.load(contest, numbers, self._autocorrelation)
        except (BundleError, NotFoundError) as error:
            self._cancel(contest, str(error))
            return None
        if former.tags.get(ROLLED_BACK_TAG):
            self._cancel(contest, f"Version {former.number} was rolled back.")
            return None
        compared = self._compare(contest, project, bundles, champion, former)
        if compared is not None and compared.decision.state != "open":
            self._end(contest, project, compared, champion, former)
        return None if compared is None else compared.decision

    def _cancel(self, contest: ContestRow, reason: str) -> None:
        self.contests.contests.end_probation(contest.id, {"state": "over", "reason": reason})

    def _compare(
        self,
        contest: ContestRow,
        project: Project,
        bundles: ContestantBundles,
        champion: ModelVersion,
        former: ModelVersion,
    ) -> ContestComparison | None:
        most = project.contest.probation or 0
        since = contest.closed or 0.0
        rows = labelled_rows(self.contests.predictions, contest.model, since, bundles.bundles, most)
        if len(rows.ids) < min(project.contest.fewest, most):
            return None
        evidence = bundles.predict(rows.ids, rows.frame)
        task = bundles.bundles[champion.number].signature.task
        of_champion, of_former = (
            bounded_losses(task, rows.actual, evidence[n].predicted, scale=contest.scale)
            for n in (champion.number, former.number)
        )
        decision = decide_probation(of_champion, of_former, project.contest, tau=bundles.tau)
        return ContestComparison(rows, evidence, decision)

    def _end(
        self,
        contest: ContestRow,
        project: Project,
        compared: ContestComparison,
        champion: ModelVersion,
        former: ModelVersion,
    ) -> None:
        decision, versions = compared.decision, (former.number, champion.number)
        verdict = contest_verdict(project, contest.model, versions, compared)
        returns = decision.winner is not None and verdict.passed
        reason = _sentence(decision, former, champion, returns=returns)
        if returns:
            verdict = msgspec.structs.replace(verdict, reasons=(reason,))
            self._restore(contest, (former, champion), decision, verdict, reason)
        document = {**msgspec.to_builtins(decision), "state": "back" if returns else "over"}
        self.contests.contests.end_probation(contest.id, {**document, "reason": reason})
        self.contests.unload(contest.model)
        logger.info("%s: %s", contest.model, reason)

    def _restore(
        self,
        contest: ContestRow,
        versions: tuple[ModelVersion, ModelVersion],
        decision: ContestDecision,
        verdict: GateVerdict,
        reason: str,
    ) -> None:
        """Make the former champion, the first of `versions`, champion again."""
        former, champion = versions
        registry = self.contests.registry
        evidence = {
            "probation": msgspec.to_builtins(decision),
            "verdict": msgspec.to_builtins(verdict),
            "contest": contest.id,
        }
        store_evidence(registry, former, verdict, ACTOR, reason)
        why = PromotionReason("promote", ACTOR, reason, evidence)
        set_champion(registry, former, champion, why, self.contests.audit)

    def _is_retraining(self, model: str) -> bool:
        """Whether a retraining is running; both versions will be part of its contest."""
        return any(trigger.retrains for trigger in self.contests.triggers.opened(model))

    def _autocorrelation(self, contest: ContestRow, task: Task) -> float:
        """Autocorrelation time of losses before the contest ended, whichever version answered."""
        window = self.contests.predictions.window(
            contest.model, until=contest.closed, labelled=True, last=AUTOCORRELATION_ROWS
        )
        return robust_autocorrelation_time(row_losses(task, window.actual, window.outputs))


def _sentence(
    decision: ContestDecision, former: ModelVersion, champion: ModelVersion, *, returns: bool
) -> str:
    loss = decision.contestants[0].loss
    against = (
        f"on {decision.rows:,} labelled rows since the promotion of version {champion.number}: "
        f"mean loss {loss:.4g} against {decision.champion_loss:.4g}."
    )
    if returns:
        return f"Version {former.number} is champion again, because it was better {against}"
    return f"Version {champion.number} stays: version {former.number} was not better {against}"

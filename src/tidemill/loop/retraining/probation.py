"""After a contest, the champion that was beaten goes on competing: rows of a few days decided.

What wins while every flight is late need not be the better model once they are not. So for a number
of labelled rows after a promotion the former champion's bundle answers the recorded inputs, too,
and if it is proven better under the rules of a contest, it is made champion again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import msgspec

from tidemill.errors import BundleError, NotFoundError
from tidemill.loop.promotion.promote import ROLLED_BACK_TAG, set_champion, store_evidence
from tidemill.loop.retraining.contest import ACTOR, ContestService, contest_verdict
from tidemill.loop.retraining.contest_bundles import ContestantBundles, labelled_rows
from tidemill.project import Project, Task
from tidemill.steps.decay.autocorrelation import AUTOCORRELATION_ROWS, robust_autocorrelation_time
from tidemill.steps.decay.holdout import row_losses
from tidemill.steps.retraining.contest import ContestDecision, bounded_losses, decide_probation
from tidemill.stores.mlflow.versions import CHAMPION, ModelVersion
from tidemill.stores.retraining.contests import ContestRow

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProbationService:
    """Watches over promotions that contests led to."""

    contest_service: ContestService

    def judge(self, model: str) -> ContestDecision | None:
        """Look at the model's newest promotion, and take it back if the last champion was better.

        Returns:
            How the two compare; None where nobody is on probation, or too few rows tell.

        Raises:
            UnavailableError: MLflow or the database cannot be reached.
        """
        umpire = self.contest_service
        contest = umpire.contests.newest(model)
        if contest is None or contest.winner is None or contest.probation is not None:
            return None
        project = umpire.project(model)
        if project.contest.probation is None or self._retraining(model):
            return None
        champion = umpire.registry.by_alias(model, CHAMPION)
        if champion is None or champion.number != contest.winner:
            return None
        try:
            former = umpire.registry.version(model, contest.champion)
            numbers = (champion.number, former.number)
            competing = umpire.contestants(contest, numbers, self._memory)
        except (BundleError, NotFoundError) as error:
            self._call_off(contest, str(error))
            return None
        if former.tags.get(ROLLED_BACK_TAG):
            self._call_off(contest, f"Version {former.number} was rolled back.")
            return None
        return self._compare(contest, project, competing, champion, former)

    def _call_off(self, contest: ContestRow, reason: str) -> None:
        self.contest_service.contests.end_probation(contest.id, {"state": "over", "reason": reason})

    def _compare(
        self,
        contest: ContestRow,
        project: Project,
        competing: ContestantBundles,
        champion: ModelVersion,
        former: ModelVersion,
    ) -> ContestDecision | None:
        umpire, model = self.contest_service, contest.model
        most = project.contest.probation or 0
        rows = labelled_rows(
            umpire.predictions, model, contest.closed or 0.0, competing.bundles, most
        )
        if len(rows.ids) < min(project.contest.fewest, most):
            return None
        answers = competing.answers(rows.ids, rows.frame)
        task = competing.bundles[champion.number].signature.task
        of_champion, of_former = (
            bounded_losses(task, rows.actual, answers[n].predicted, scale=contest.scale)
            for n in (champion.number, former.number)
        )
        decision = decide_probation(of_champion, of_former, project.contest, tau=competing.tau)
        if decision.state == "open":
            return decision
        verdict = contest_verdict(
            project, model, (former.number, champion.number), answers, rows, decision
        )
        back = decision.winner is not None and verdict.passed
        reason = _sentence(decision, former, champion, back=back)
        if back:
            verdict = msgspec.structs.replace(verdict, reasons=(reason,))
            self._bring_back(contest, former, champion, decision, verdict, reason)
        document = {**msgspec.to_builtins(decision), "state": "back" if back else "over"}
        umpire.contests.end_probation(contest.id, {**document, "reason": reason})
        umpire.release(model)
        logger.info("%s: %s", model, reason)
        return decision

    def _bring_back(
        self,
        contest: ContestRow,
        former: ModelVersion,
        champion: ModelVersion,
        decision: ContestDecision,
        verdict: Any,
        reason: str,
    ) -> None:
        registry = self.contest_service.registry
        evidence = {
            "probation": msgspec.to_builtins(decision),
            "verdict": msgspec.to_builtins(verdict),
            "contest": contest.id,
        }
        store_evidence(registry, former, verdict, ACTOR, reason)
        audit = self.contest_service.audit
        set_champion(registry, former, champion, "promote", reason, ACTOR, evidence, audit)

    def _retraining(self, model: str) -> bool:
        """Whether a retraining is under way, whose contest both will be part of."""
        return any(trigger.retrains for trigger in self.contest_service.triggers.opened(model))

    def _memory(self, contest: ContestRow, task: Task) -> float:
        """How long spells lasted before the contest ended, whoever answered."""
        window = self.contest_service.predictions.window(
            contest.model, until=contest.closed, labelled=True, last=AUTOCORRELATION_ROWS
        )
        return robust_autocorrelation_time(row_losses(task, window.actual, window.outputs))


def _sentence(
    decision: ContestDecision, former: ModelVersion, champion: ModelVersion, *, back: bool
) -> str:
    loss = decision.contestants[0].loss
    against = f"on {decision.rows:,} labelled rows since the promotion of version {champion.number}"
    against += f": mean loss {loss:.4g} against {decision.champion_loss:.4g}."
    if back:
        return f"Version {former.number} is back, because it was better {against}"
    return f"Version {champion.number} stays: version {former.number} was not better {against}"

"""Give up the trials of a guided search that are plainly behind the others while they learn.

    watch = Watch(optuna_trial, maximize=True)
    watch.report(4, "f1_score", 0.31, maximize=True)      raises Pruned

A trial is compared with those that ran to their end, at the same step; the first few of a search
always do, so that there is something to compare with, and a search is never without a model.
"""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

MIN_TRIALS = 10  # a shorter search has nothing to gain: its first trials are never pruned
STARTUP_TRIALS = 5  # how many trials run to their end before any is pruned
WARMUP_STEPS = 3  # steps that say too little about where a trial ends
KEPT_PERCENTILE = 75.0  # percent: what is better than the worst quarter goes on


@dataclass(frozen=True)
class Pruning:
    """When a trial was given up: after which step (pass, epoch), and with which score.

    The score is None where it was no finite number.
    """

    step: int
    measure: str
    score: float | None

    def __str__(self) -> str:
        score = "not finite" if self.score is None else f"{self.score:.4g}"
        return f"step {self.step}: {self.measure} {score}"


class TrialPruned(BaseException):
    """Raised into a trial to end it; no Exception, so that no estimator takes it for a fault."""

    def __init__(self, pruning: Pruning) -> None:
        super().__init__(str(pruning))
        self.pruning = pruning


class PruningCallback:
    """Tells a study how good one of its trials is while it learns.

    Args:
        trial: Optuna's.
        maximize: Whether the study's values are better when larger.
    """

    def __init__(self, trial: Any, *, maximize: bool) -> None:
        self._trial = trial
        self._maximize = maximize

    def report(self, step: int, measure: str, score: float, *, maximize: bool) -> None:
        """Tell a score; a step that was told before is passed over, as when a network starts anew.

        A study that cannot be reached prunes nothing: the trial goes on.

        Args:
            maximize: Whether more of this score is better.

        Raises:
            Pruned: The trial is behind the others.
        """
        try:
            # Optuna warns of NaN, which is behind, and of a step told twice, which it passes over.
            with warnings.catch_warnings(action="ignore"):
                self._trial.report(score if maximize == self._maximize else -score, step)
                behind = self._trial.should_prune()
        except Exception:
            logger.warning("The study does not hear of step %d: not pruned", step, exc_info=True)
            return
        if behind:
            raise TrialPruned(Pruning(step, measure, score if math.isfinite(score) else None))


def pruning_enabled(wanted: bool, trials: int) -> bool:
    """Whether a guided search of so many trials is pruned, where its candidate wants it."""
    return wanted and trials >= MIN_TRIALS


def make_pruner(active: bool) -> Any:
    """Optuna's rule for which trials are given up."""
    from optuna.pruners import NopPruner, PercentilePruner

    if not active:
        return NopPruner()
    return PercentilePruner(
        KEPT_PERCENTILE,
        n_startup_trials=STARTUP_TRIALS,
        n_warmup_steps=WARMUP_STEPS,
        n_min_trials=STARTUP_TRIALS,
    )

"""Pruning: end trials of a guided search early when their intermediate scores are clearly behind.

    callback = PruningCallback(optuna_trial, maximize=True)
    callback.report(4, "f1_score", 0.31, maximize=True)      raises TrialPruned

A trial is compared, at the same step, with the trials that ran to their end. The first few trials
of a search always do, so that there is something to compare with and a search always has a model.

See decision 191.
"""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

MIN_TRIALS = 10  # a shorter search gains nothing: its first trials are never pruned
STARTUP_TRIALS = 5  # trials that run to their end before any is pruned
WARMUP_STEPS = 3  # the first steps say too little about the final score
KEPT_PERCENTILE = 75.0  # a trial continues while it is better than the worst quarter


@dataclass(frozen=True)
class Pruning:
    """When a trial was pruned: after which step (pass or epoch), and with which score.

    The score is None if it was not a finite number.
    """

    step: int
    measure: str
    score: float | None

    def __str__(self) -> str:
        score = "not finite" if self.score is None else f"{self.score:.4g}"
        return f"step {self.step}: {self.measure} {score}"


class TrialPruned(BaseException):
    """Ends a pruned trial; not an Exception, so that no estimator handles it as an error."""

    def __init__(self, pruning: Pruning) -> None:
        super().__init__(str(pruning))
        self.pruning = pruning


class PruningCallback:
    """Reports a trial's intermediate scores to its study, which may prune it.

    Args:
        trial: Optuna's trial.
        maximize: Whether the study maximizes its values.
    """

    def __init__(self, trial: Any, *, maximize: bool) -> None:
        self._trial = trial
        self._maximize = maximize

    def report(self, step: int, measure: str, score: float, *, maximize: bool) -> None:
        """Report a score, unless this step was reported before (a network may start again).

        If the study cannot be reached, nothing is pruned and the trial continues.

        Args:
            step: Counted from 1.
            measure: The name of the score.
            maximize: Whether a higher score is better.

        Raises:
            TrialPruned: The trial is clearly behind the others.
        """
        try:
            # Optuna warns about NaN, which counts as behind, and about repeated steps.
            with warnings.catch_warnings(action="ignore"):
                self._trial.report(score if maximize == self._maximize else -score, step)
                behind = self._trial.should_prune()
        except Exception:
            logger.warning("Step %d could not be reported to the study", step, exc_info=True)
            return
        if behind:
            raise TrialPruned(Pruning(step, measure, score if math.isfinite(score) else None))


def pruning_enabled(allowed: bool, trials: int) -> bool:
    """Whether a guided search of that many trials prunes, if its candidate allows it."""
    return allowed and trials >= MIN_TRIALS


def make_pruner(active: bool) -> Any:
    """The Optuna pruner; one that never prunes if not active."""
    from optuna.pruners import NopPruner, PercentilePruner

    if not active:
        return NopPruner()
    return PercentilePruner(
        KEPT_PERCENTILE,
        n_startup_trials=STARTUP_TRIALS,
        n_warmup_steps=WARMUP_STEPS,
        n_min_trials=STARTUP_TRIALS,
    )

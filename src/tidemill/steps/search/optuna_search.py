"""Search guided by Optuna: within one process, or as a study that many processes share.

with shared_study("postgresql+psycopg://...", "job:forest", maximize=True, seed=7) as study:
    settings = study.ask(candidate, {}, owner="job-3")
    study.tell(0.93)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tidemill.project import Candidate
from tidemill.steps.search.parameters import Settings
from tidemill.steps.search.pruning import (
    Pruning,
    PruningCallback,
    make_pruner,
    pruning_enabled,
)

MAX_REDRAWS = 50  # attempts to draw settings that have not been tried yet
OWNER = "owner"
SHARED_STARTUP_TRIALS = 5  # drawn at random before the sampler has anything to go by


class OptunaSearch:
    """Settings that Optuna proposes from the results of the earlier ones."""

    def __init__(
        self,
        space: Mapping[str, Sequence[Any]],
        pinned: Mapping[str, Any],
        trials: int,
        *,
        seed: int,
        maximize: bool,
        prune: bool = True,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.total = trials
        self._space = space
        self._pinned = pinned
        self._maximize = maximize
        self._prunes = pruning_enabled(prune, trials)
        self._study = optuna.create_study(
            direction="maximize" if maximize else "minimize",
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(10, trials // 2)),
            pruner=make_pruner(self._prunes),
        )
        self._distributions = {name: distribution(values) for name, values in space.items()}
        self._open: list[tuple[Settings, Any]] = []
        self._tried: dict[tuple[tuple[str, Any], ...], float | None] = {}
        self._proposed = 0

    def ask(self) -> Settings | None:
        if self._proposed == self.total:
            return None
        self._proposed += 1
        for _ in range(MAX_REDRAWS):
            trial = self._study.ask(self._distributions)
            if _key(trial.params) not in self._tried:
                break
            finish_trial(self._study, trial, self._tried[_key(trial.params)])
        self._tried[_key(trial.params)] = None
        settings = {**self._pinned, **decode_params(self._space, trial.params)}
        self._open.append((settings, trial))
        return settings

    def pruning_callback(self, settings: Settings) -> PruningCallback | None:
        trial = self._open[self._index(settings)][1]
        return PruningCallback(trial, maximize=self._maximize) if self._prunes else None

    def tell(self, settings: Settings, value: float | None, pruned: Pruning | None = None) -> None:
        trial = self._open.pop(self._index(settings))[1]
        self._tried[_key(trial.params)] = value
        finish_trial(self._study, trial, value, pruned)

    def _index(self, settings: Settings) -> int:
        return next(i for i, (open_, _) in enumerate(self._open) if open_ == settings)


class SharedStudy:
    """A shared study as one process sees it, running one trial at a time."""

    def __init__(self, study: Any, *, maximize: bool, prune: bool) -> None:
        self._study = study
        self._maximize = maximize
        self._prune = prune
        self._trial: Any = None

    def ask(self, candidate: Candidate, pinned: Mapping[str, Any], owner: str) -> Settings:
        """Return the next settings to try.

        Args:
            owner: Who runs the trial. A trial that the same owner left unfinished is marked failed.
        """
        import optuna

        states = optuna.trial.TrialState
        for earlier in self._study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            if earlier.user_attrs.get(OWNER) == owner:
                self._study.tell(earlier.number, state=states.FAIL)
        space = {name: values for name, values in candidate.search.items() if name not in pinned}
        self._trial = self._study.ask({n: distribution(values) for n, values in space.items()})
        self._trial.set_user_attr(OWNER, owner)
        return {**pinned, **decode_params(space, self._trial.params)}

    def pruning_callback(self) -> PruningCallback | None:
        """Return the callback for intermediate scores; None if the study does not prune."""
        return PruningCallback(self._trial, maximize=self._maximize) if self._prune else None

    def tell(self, value: float | None, pruned: Pruning | None = None) -> None:
        """Record the metric of the trial; None if it failed or was pruned."""
        finish_trial(self._study, self._trial, value, pruned)


@contextmanager
def shared_study(
    storage: str, name: str, *, maximize: bool, seed: int, prune: bool = False
) -> Iterator[SharedStudy]:
    """Open the study of that name, creating it if it does not exist.

    Args:
        storage: The URL of Optuna's database.
        prune: Prune trials that are behind the others, including those of other processes.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Trials still running count as bad, so that two processes do not try nearly the same settings.
    sampler = optuna.samplers.TPESampler(
        seed=seed, constant_liar=True, n_startup_trials=SHARED_STARTUP_TRIALS
    )
    database = optuna.storages.RDBStorage(storage)
    try:
        study = optuna.create_study(
            storage=database,
            study_name=name,
            sampler=sampler,
            pruner=make_pruner(prune),
            direction="maximize" if maximize else "minimize",
            load_if_exists=True,
        )
        yield SharedStudy(study, maximize=maximize, prune=prune)
    finally:
        database.remove_session()
        database.engine.dispose()


def finish_trial(
    study: Any, trial: Any, value: float | None, pruned: Pruning | None = None
) -> None:
    """Tell an Optuna study how a trial ended.

    A trial without a finite value that was not pruned counts as failed.
    """
    from optuna.trial import TrialState

    if pruned is not None:
        study.tell(trial, state=TrialState.PRUNED)
    elif value is None or not math.isfinite(value):
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, value)


def _key(params: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(params.items()))


def decode_params(space: Mapping[str, Sequence[Any]], params: Mapping[str, Any]) -> Settings:
    """Optuna's parameters as settings.

    From a list, Optuna draws an index rather than a value, so that a list may hold any object.
    """
    return {
        name: params[name] if isinstance(values, tuple) else values[params[name]]
        for name, values in space.items()
    }


def distribution(values: Sequence[Any]) -> Any:
    """The Optuna distribution of one entry of a search space.

    Two integers make an integer range. A float range above 0 that spans more than two powers of ten
    is sampled on a log scale.
    """
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if not isinstance(values, tuple):
        return CategoricalDistribution(range(len(values)))
    low, high = values
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=low > 0 and high / low > 100)

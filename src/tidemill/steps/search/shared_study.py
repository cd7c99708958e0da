"""One guided search that many processes share, in a database of Optuna's.

with shared_study("postgresql+psycopg://...", "job:forest", maximize=True, seed=7) as study:
    settings = study.ask(candidate, {}, owner="job-3")
    study.tell(0.93)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tidemill.project import Candidate
from tidemill.steps.search.pruning import Pruning, PruningCallback, make_pruner
from tidemill.steps.search.search import Settings, decode_params, distribution, finish_trial

OWNER = "owner"
FIRST_AT_RANDOM = 5


class SharedStudy:
    """A study as one of its processes sees it; one trial at a time."""

    def __init__(self, study: Any, *, maximize: bool, prune: bool) -> None:
        self._study = study
        self._maximize = maximize
        self._prune = prune
        self._trial: Any = None

    def ask(self, candidate: Candidate, pinned: Mapping[str, Any], owner: str) -> Settings:
        """The next settings to try; what the same owner asked for before and lost has failed."""
        import optuna

        states = optuna.trial.TrialState
        for earlier in self._study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            if earlier.user_attrs.get(OWNER) == owner:
                self._study.tell(earlier.number, state=states.FAIL)
        space = {name: values for name, values in candidate.search.items() if name not in pinned}
        self._trial = self._study.ask({n: distribution(values) for n, values in space.items()})
        self._trial.set_user_attr(OWNER, owner)
        return {**pinned, **decode_params(space, self._trial.params)}

    def watch(self) -> PruningCallback | None:
        """Hears how good the settings are while they are learned; None where nothing is pruned."""
        return PruningCallback(self._trial, maximize=self._maximize) if self._prune else None

    def tell(self, value: float | None, pruned: Pruning | None = None) -> None:
        """How good the settings were; None for a trial that failed or was pruned."""
        finish_trial(self._study, self._trial, value, pruned)


@contextmanager
def shared_study(
    storage: str, name: str, *, maximize: bool, seed: int, prune: bool = False
) -> Iterator[SharedStudy]:
    """The study of that name, made if there is none.

    Args:
        prune: Give up trials that are behind the others, whichever process ran those.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # What others are trying counts as bad meanwhile, so that two never try nearly the same.
    sampler = optuna.samplers.TPESampler(
        seed=seed, constant_liar=True, n_startup_trials=FIRST_AT_RANDOM
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

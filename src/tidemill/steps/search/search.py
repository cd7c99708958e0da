"""Which settings of a candidate to try next: its whole grid, or a guided search with Optuna."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tidemill.project import Candidate
from tidemill.steps.search.parameters import Overrides, check_params, parse_overrides
from tidemill.steps.search.pruning import Pruning, PruningCallback, make_pruner, pruning_enabled

__all__ = [
    "Overrides",
    "Search",
    "Settings",
    "Trial",
    "check_params",
    "open_search",
    "parse_overrides",
]

DEFAULT_TRIALS = 20
MAX_REDRAWS = 50  # how often to ask again for a setting that was not tried yet

Settings = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One setting of one candidate: what is fitted, tracked and ranked as one run.

    `window` names the rows it learns from, where there are several choices.
    """

    candidate: str
    number: int  # from 1
    of: int
    params: Settings = field(default_factory=dict)
    window: str = ""

    @property
    def name(self) -> str:
        """The run's name: the candidate's, numbered where there are several trials."""
        name = self.candidate if self.of == 1 else f"{self.candidate}-{self.number}"
        return f"{name} on {self.window}" if self.window else name


class Search(Protocol):
    """Gives settings one by one; is told how good each was, None for one that failed.

    `watch` hears how good a setting is while it learns; None where no trial is given up early.
    """

    total: int

    def ask(self) -> Settings | None: ...

    def watch(self, settings: Settings) -> PruningCallback | None: ...

    def tell(
        self, settings: Settings, value: float | None, pruned: Pruning | None = None
    ) -> None: ...


def open_search(
    candidate: Candidate,
    *,
    pinned: Mapping[str, Any] | None = None,
    trials: int | None = None,
    seed: int = 0,
    maximize: bool = True,
) -> Search:
    """The search over a candidate's settings.

    Lists are tried in full when no number of trials is asked for, or one that covers them; ranges
    and larger grids are searched by Optuna's tree-structured Parzen estimator, seeded, and no
    setting is tried twice. Only such a search gives up trials that are behind the others.

    Args:
        pinned: Parameters fixed by the caller; they are given to every trial, not searched.
        trials: How many settings to try; None takes the candidate's own number.
    """
    pinned = dict(pinned or {})
    space = {name: values for name, values in candidate.search.items() if name not in pinned}
    wanted = trials or candidate.trials
    size = _size(space)
    if size is not None and (wanted is None or wanted >= size):
        return GridSearch(space, pinned)
    return OptunaSearch(
        space,
        pinned,
        wanted or DEFAULT_TRIALS,
        seed=seed,
        maximize=maximize,
        prune=candidate.prune,
    )


def _size(space: Mapping[str, Sequence[Any]]) -> int | None:
    """How many settings the lists make; None where there is a range."""
    if any(isinstance(values, tuple) for values in space.values()):
        return None
    return math.prod(len(values) for values in space.values())


class GridSearch:
    """Every combination of the lists, the last parameter changing fastest."""

    def __init__(self, space: Mapping[str, Sequence[Any]], pinned: Mapping[str, Any]) -> None:
        points = itertools.product(*space.values())
        self._settings = [{**pinned, **dict(zip(space, point, strict=True))} for point in points]
        self.total = len(self._settings)
        self._left = iter(self._settings)

    def ask(self) -> Settings | None:
        return next(self._left, None)

    def watch(self, settings: Settings) -> None:
        """Whoever writes a grid wants all of it."""

    def tell(self, settings: Settings, value: float | None, pruned: Pruning | None = None) -> None:
        """A grid has nothing to learn."""


class OptunaSearch:
    """Settings proposed by Optuna from how good the earlier ones were."""

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
        self._known: dict[tuple[tuple[str, Any], ...], float | None] = {}
        self._asked = 0

    def ask(self) -> Settings | None:
        if self._asked == self.total:
            return None
        self._asked += 1
        for _ in range(MAX_REDRAWS):
            trial = self._study.ask(self._distributions)
            if _key(trial.params) not in self._known:
                break
            finish_trial(self._study, trial, self._known[_key(trial.params)])
        self._known[_key(trial.params)] = None
        settings = {**self._pinned, **decode_params(self._space, trial.params)}
        self._open.append((settings, trial))
        return settings

    def watch(self, settings: Settings) -> PruningCallback | None:
        trial = self._open[self._place(settings)][1]
        return PruningCallback(trial, maximize=self._maximize) if self._prunes else None

    def tell(self, settings: Settings, value: float | None, pruned: Pruning | None = None) -> None:
        trial = self._open.pop(self._place(settings))[1]
        self._known[_key(trial.params)] = value
        finish_trial(self._study, trial, value, pruned)

    def _place(self, settings: Settings) -> int:
        return next(i for i, (known, _) in enumerate(self._open) if known == settings)


def finish_trial(
    study: Any, trial: Any, value: float | None, pruned: Pruning | None = None
) -> None:
    """How a trial of an Optuna study ended; without a finite value, and not pruned, it failed."""
    from optuna.trial import TrialState

    if pruned is not None:
        study.tell(trial, state=TrialState.PRUNED)
    elif value is None or not math.isfinite(value):
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, value)


def _key(drawn: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(drawn.items()))


def decode_params(space: Mapping[str, Sequence[Any]], drawn: Mapping[str, Any]) -> Settings:
    """What Optuna drew as settings: of a list it draws the place, so that it may hold anything."""
    return {
        name: drawn[name] if isinstance(values, tuple) else values[drawn[name]]
        for name, values in space.items()
    }


def distribution(values: Sequence[Any]) -> Any:
    """Whole bounds make a whole-number range; wide positive float ranges are drawn by logarithm."""
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

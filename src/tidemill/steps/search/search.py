"""Which settings of a candidate to try next: every combination, or a search guided by Optuna."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tidemill.project import Candidate, Project
from tidemill.steps.search.optuna_search import OptunaSearch
from tidemill.steps.search.parameters import Settings
from tidemill.steps.search.pruning import Pruning, PruningCallback

DEFAULT_TRIALS = 20


@dataclass(frozen=True)
class Trial:
    """One setting of one candidate: fitted, tracked and ranked as one run.

    Attributes:
        number: Counted from 1.
        of: How many trials the candidate has.
        window: The training window that it is fitted on, where there are several.
    """

    candidate: str
    number: int
    of: int
    params: Settings = field(default_factory=dict)
    window: str = ""

    @property
    def name(self) -> str:
        """The run's name: the candidate's, numbered if it has several trials."""
        name = self.candidate if self.of == 1 else f"{self.candidate}-{self.number}"
        return f"{name} on {self.window}" if self.window else name


@dataclass(frozen=True)
class SearchOptions:
    """What may be set for one training in place of what the project says.

    Attributes:
        overrides: Parameters by candidate that are fixed instead of searched; see
            `tidemill.steps.search.parameters.parse_overrides`.
        trials: How many settings of each candidate to try; None uses the project's numbers.
        only: The candidates to try; empty means all.
    """

    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    trials: int | None = None
    only: Sequence[str] = ()


class Search(Protocol):
    """An ask-and-tell search: `ask` for the next settings, `tell` how good they were.

    Attributes:
        total: How many settings it will propose.
    """

    total: int

    def ask(self) -> Settings | None:
        """Return the next settings, or None when all have been proposed."""

    def pruning_callback(self, settings: Settings) -> PruningCallback | None:
        """Return the callback for intermediate scores; None if this search does not prune."""

    def tell(self, settings: Settings, value: float | None, pruned: Pruning | None = None) -> None:
        """Record the metric of settings; None for a trial that failed or was pruned."""


def plan_searches(project: Project, options: SearchOptions, *, maximize: bool) -> dict[str, Search]:
    """Open the search of every candidate that will be tried, by name.

    Raises:
        ProjectError: The options name an unknown candidate.
    """
    for name in [*options.only, *options.overrides]:
        project.candidate(name)
    return {
        candidate.name: open_search(
            candidate,
            pinned=options.overrides.get(candidate.name),
            trials=options.trials,
            seed=project.seed,
            maximize=maximize,
        )
        for candidate in project.candidates
        if not options.only or candidate.name in options.only
    }


def open_search(
    candidate: Candidate,
    *,
    pinned: Mapping[str, Any] | None = None,
    trials: int | None = None,
    seed: int = 0,
    maximize: bool = True,
) -> Search:
    """Open the search over a candidate's settings.

    If every entry is a list, and no number of trials is set or it covers the whole grid, all
    combinations are tried. Ranges and larger grids are searched by Optuna's tree-structured Parzen
    estimator with a fixed seed; no setting is tried twice, and trials that are clearly behind are
    pruned.

    Args:
        pinned: Parameters with a fixed value: passed to every trial, not searched.
        trials: How many settings to try; None uses the candidate's own number.
    """
    pinned = dict(pinned or {})
    space = {name: values for name, values in candidate.search.items() if name not in pinned}
    trials = trials or candidate.trials
    size = _grid_size(space)
    if size is not None and (trials is None or trials >= size):
        return GridSearch(space, pinned)
    return OptunaSearch(
        space,
        pinned,
        trials or DEFAULT_TRIALS,
        seed=seed,
        maximize=maximize,
        prune=candidate.prune,
    )


def _grid_size(space: Mapping[str, Sequence[Any]]) -> int | None:
    """The number of combinations; None if an entry is a range."""
    if any(isinstance(values, tuple) for values in space.values()):
        return None
    return math.prod(len(values) for values in space.values())


class GridSearch:
    """Every combination of the lists; the last parameter varies fastest."""

    def __init__(self, space: Mapping[str, Sequence[Any]], pinned: Mapping[str, Any]) -> None:
        points = itertools.product(*space.values())
        self._settings = [{**pinned, **dict(zip(space, point, strict=True))} for point in points]
        self.total = len(self._settings)
        self._remaining = iter(self._settings)

    def ask(self) -> Settings | None:
        return next(self._remaining, None)

    def pruning_callback(self, settings: Settings) -> None:
        """Return None: a grid is always tried in full."""

    def tell(self, settings: Settings, value: float | None, pruned: Pruning | None = None) -> None:
        """Ignore the result: the next settings of a grid do not depend on it."""

"""The candidates of a new project, as source text, sized to its table.

The ensemble averages the other three kinds, which make different mistakes. See decision 231.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tidemill.project import Task

FOREST_ROWS = 200_000  # more rows make a forest slow to fit and large to serve
ENSEMBLE_ROWS = 100_000  # it fits every kind once more
LEAVES_OF_A_TREE = 5_000
FEW_ROWS = 2_000
SMALL_ROWS = 20_000  # for fewer, early stopping's own held-out rows are too few
BOOSTED_CLASSES = 30  # boosting fits one tree per class in each iteration
SEARCHED_ROWS = 50_000  # for more, the linear model has one setting
LINE = 100


@dataclass(frozen=True)
class TableSize:
    """What decides how much fitting costs; `classes` is 0 for regression."""

    rows: int
    classes: int


class EstimatorSource(NamedTuple):
    """An estimator as source: its variable, candidate, class, parameters and values to search."""

    variable: str
    candidate: str
    estimator: str
    params: dict[str, object]
    search: str = ""


class Candidates(NamedTuple):
    """Source text: import lines, assignments of estimators, and elements of `candidates`."""

    imports: str
    estimators: str
    elements: str


def render_candidates(task: Task, size: TableSize) -> Candidates:
    """The candidates for a table."""
    kinds = [_linear(task, size)]
    if size.rows <= FOREST_ROWS:
        kinds.append(_forest(task, size))
    if size.classes <= BOOSTED_CLASSES:
        kinds.append(_boosting(task, size))
    estimators, elements = "".join(map(_assignment, kinds)), "".join(map(_candidate, kinds))
    ensembles = {kind.estimator for kind in kinds[1:]}
    if len(kinds) == 3 and size.rows <= ENSEMBLE_ROWS:
        voting = "VotingClassifier" if task == "classification" else "VotingRegressor"
        ensembles.add(voting)
        estimators += _members(kinds)
        elements += _ensemble(voting)
    imports = _import("sklearn.ensemble", sorted(ensembles)) if ensembles else ""
    imports += _import("sklearn.linear_model", [kinds[0].estimator])
    return Candidates(imports, estimators, elements)


def _import(module: str, names: list[str]) -> str:
    if len(line := f"from {module} import {', '.join(names)}\n") <= LINE:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")\n"


def _linear(task: Task, size: TableSize) -> EstimatorSource:
    searched = size.rows <= SEARCHED_ROWS and size.classes <= BOOSTED_CLASSES
    if task == "regression":
        search = '{"alpha": [0.1, 1.0, 10.0]}' if searched else ""
        return EstimatorSource("linear", "ridge", "Ridge", {}, search)
    search = '{"C": [0.1, 1.0, 10.0]}' if searched else ""
    return EstimatorSource(
        "linear", "logistic_regression", "LogisticRegression", {"max_iter": 1000}, search
    )


def _forest(task: Task, size: TableSize) -> EstimatorSource:
    params: dict[str, object] = {
        "n_estimators": 200 if size.rows <= SMALL_ROWS else 100,
        "min_samples_leaf": max(2, size.rows // LEAVES_OF_A_TREE),
    }
    if task == "classification":
        return EstimatorSource("forest", "extra_trees", "ExtraTreesClassifier", params)
    return EstimatorSource(
        "forest", "extra_trees", "ExtraTreesRegressor", params | {"max_features": 0.5}
    )


def _boosting(task: Task, size: TableSize) -> EstimatorSource:
    """Few and small trees for few rows; with many rows, early stopping chooses their number."""
    few, many = size.rows <= FEW_ROWS, size.rows > SMALL_ROWS
    rounds = 1000 if many else 150 if few or size.classes > 2 else 600
    params: dict[str, object] = {
        "learning_rate": 0.05,
        "max_iter": rounds,
        "max_leaf_nodes": 15 if few else 31,
        "min_samples_leaf": 10,
        "l2_regularization": 1.0,
        "max_features": 0.5,
        "early_stopping": many,
    }
    kind = "Classifier" if task == "classification" else "Regressor"
    search = "" if many else f'{{"max_iter": [{rounds // 2}, {rounds}]}}'
    return EstimatorSource(
        "boosting", "gradient_boosting", f"HistGradientBoosting{kind}", params, search
    )


def _assignment(kind: EstimatorSource) -> str:
    """`variable = Estimator(...)`, in one line if it fits."""
    arguments = [f"{name}={value!r}" for name, value in kind.params.items()]
    line = f"{kind.variable} = {kind.estimator}({', '.join(arguments)})\n"
    if len(line) <= LINE:
        return line
    parts = "".join(f"    {argument},\n" for argument in arguments)
    return f"{kind.variable} = {kind.estimator}(\n{parts})\n"


def _candidate(kind: EstimatorSource) -> str:
    search = f", search={kind.search}" if kind.search else ""
    note = "        # One run for each value of the search.\n" if kind.search else ""
    return f'{note}        Candidate("{kind.candidate}", {kind.variable}{search}),\n'


def _members(kinds: list[EstimatorSource]) -> str:
    pairs = ", ".join(f'("{kind.variable}", {kind.variable})' for kind in kinds)
    return f"members = [{pairs}]\n"


def _ensemble(voting: str) -> str:
    soft = ', voting="soft"' if voting == "VotingClassifier" else ""
    return (
        "        # The mean of the three, with and without the linear model.\n"
        f'        Candidate(\n            "ensemble",\n            {voting}(members{soft}),\n'
        '            search={"weights": [[1, 1, 1], [0, 1, 2]]},\n        ),\n'
    )

"""Ensembles of several models: bagging, voting, stacking and AdaBoost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tidemill.errors import ExportError
from tidemill.steps.convert.blocks import (
    Block,
    NumberBlock,
    as_numbers,
    concatenate,
    materialize,
    number_block,
)
from tidemill.steps.convert.dispatch import (
    EstimatorOutputs,
    convert_estimator,
    convert_scores,
    predicted_class,
)
from tidemill.steps.convert.graph import DOUBLE, INT64, Graph
from tidemill.steps.convert.trees import leaf_values, mean_of_trees, single_precision, tree_of

Floats = npt.NDArray[np.float64]


def weighted_mean(graph: Graph, names: Sequence[str], weights: Any = None) -> str:
    """The weighted mean of values of the same shape."""
    shares = np.ones(len(names)) if weights is None else np.asarray(weights, float)
    if not (shares == 1).all():
        pairs = zip(names, shares, strict=True)
        names = [graph.add("Mul", name, graph.constant(float(share))) for name, share in pairs]
    total = names[0] if len(names) == 1 else graph.add("Sum", *names)
    return graph.add("Div", total, graph.constant(float(shares.sum())))


def one_hot_votes(graph: Graph, chosen: str, classes: int) -> str:
    """Convert class indices, int64 [rows], to 1.0 in the class's column: [rows, classes]."""
    column = graph.reshape(chosen, -1, 1)
    same = graph.add("Equal", column, graph.constant([range(classes)], np.int64))
    return graph.cast(same, DOUBLE)


def spread_classes(graph: Graph, found: str, positions: Sequence[int], classes: int) -> str:
    """Extend the columns of some classes to all classes, with 0.0 for the others."""
    if list(positions) == list(range(classes)):
        return found
    assignment = np.zeros((len(positions), classes))
    assignment[np.arange(len(positions)), list(positions)] = 1.0
    return graph.product(found, graph.constant(assignment))


@convert_estimator.register(BaggingClassifier)
def _bagged_classes(step: BaggingClassifier, graph: Graph, block: Block) -> EstimatorOutputs:
    classes = len(step.classes_)
    if all(type(member) is DecisionTreeClassifier for member in step.estimators_):
        return EstimatorOutputs(
            probabilities=mean_of_trees(
                graph, single_precision(graph, block), _trees(step, classes)
            )
        )
    shares = []
    for member, columns in _members(step, block):
        outcome = convert_estimator(member, graph, columns)
        found = outcome.probabilities or one_hot_votes(
            graph, predicted_class(graph, outcome), len(member.classes_)
        )
        shares.append(spread_classes(graph, found, [int(c) for c in member.classes_], classes))
    return EstimatorOutputs(probabilities=weighted_mean(graph, shares))


@convert_estimator.register(BaggingRegressor)
def _bagged_values(step: BaggingRegressor, graph: Graph, block: Block) -> EstimatorOutputs:
    if all(type(member) is DecisionTreeRegressor for member in step.estimators_):
        return EstimatorOutputs(
            value=mean_of_trees(graph, single_precision(graph, block), _trees(step, None))
        )
    found = [regressor_value(member, graph, columns) for member, columns in _members(step, block)]
    return EstimatorOutputs(value=weighted_mean(graph, found))


def _trees(step: Any, classes: int | None) -> list[Any]:
    members = zip(step.estimators_, step.estimators_features_, strict=True)
    return [tree_of(tree, features, classes) for tree, features in members]


def _members(step: Any, block: Block) -> list[tuple[Any, Block]]:
    """Each member of a bag with the columns that it was fitted on."""
    members = zip(step.estimators_, step.estimators_features_, strict=True)
    if not isinstance(block, NumberBlock):
        raise ExportError(f"{type(step).__name__} gets texts.")
    return [(member, block.take(np.asarray(features))) for member, features in members]


def regressor_value(step: Any, graph: Graph, block: Block) -> str:
    """A regressor's prediction, float64 [rows, 1]."""
    found = convert_estimator(step, graph, block).value
    if found is None:
        raise ExportError(f"{type(step).__name__} is not a regressor.")
    return found


def classifier_probabilities(step: Any, graph: Graph, block: Block) -> str:
    """A classifier's probabilities, float64 [rows, classes]."""
    found = convert_estimator(step, graph, block).probabilities
    if found is None:
        raise ExportError(f"{type(step).__name__} has no probabilities.")
    return found


@convert_estimator.register(VotingRegressor)
def _voted_values(step: VotingRegressor, graph: Graph, block: Block) -> EstimatorOutputs:
    found = [regressor_value(member, graph, block) for member in step.estimators_]
    return EstimatorOutputs(value=weighted_mean(graph, found, step._weights_not_none))


@convert_estimator.register(VotingClassifier)
def _voted_classes(step: VotingClassifier, graph: Graph, block: Block) -> EstimatorOutputs:
    weights = step._weights_not_none
    if step.voting == "soft":
        found = [classifier_probabilities(member, graph, block) for member in step.estimators_]
        return EstimatorOutputs(probabilities=weighted_mean(graph, found, weights))
    classes = len(step.classes_)
    chosen = [
        predicted_class(graph, convert_estimator(member, graph, block))
        for member in step.estimators_
    ]
    counted = weighted_mean(
        graph, [one_hot_votes(graph, name, classes) for name in chosen], weights
    )
    return EstimatorOutputs(label=graph.add("ArgMax", counted, axis=1, keepdims=0))


@convert_estimator.register(StackingRegressor)
@convert_estimator.register(StackingClassifier)
def _stacked(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    return convert_estimator(step.final_estimator_, graph, _stack(step, graph, block))


@convert_scores.register(StackingClassifier)
def _stacked_scores(step: StackingClassifier, graph: Graph, block: Block) -> str:
    return convert_scores(step.final_estimator_, graph, _stack(step, graph, block))


def _stack(step: Any, graph: Graph, block: Block) -> NumberBlock:
    """The members' predictions as the columns of the final estimator."""
    parts = []
    for member, method in zip(step.estimators_, step.stack_method_, strict=True):
        parts.append(_response(member, method, graph, block, len(getattr(step, "classes_", []))))
    if step.passthrough:
        parts.append(as_numbers(graph, block))
    return concatenate(graph, parts)


def _response(member: Any, method: str, graph: Graph, block: Block, classes: int) -> NumberBlock:
    if method == "decision_function":
        return number_block(convert_scores(member, graph, block), 1 if classes == 2 else classes)
    if method == "predict_proba":
        found = number_block(classifier_probabilities(member, graph, block), classes)
        return materialize(graph, found.take(np.array([1]))) if classes == 2 else found
    if hasattr(member, "classes_"):
        chosen = graph.double(
            graph.reshape(predicted_class(graph, convert_estimator(member, graph, block)), -1, 1)
        )
        return number_block(chosen, 1)
    return number_block(regressor_value(member, graph, block), 1)


@convert_estimator.register(AdaBoostClassifier)
def _boosted_classes(step: AdaBoostClassifier, graph: Graph, block: Block) -> EstimatorOutputs:
    decision = _boosted_scores(step, graph, block)
    classes = len(step.classes_)
    if classes == 2:
        both = graph.stack([graph.add("Neg", decision), decision])
        halved = graph.add("Div", both, graph.constant(2.0))
        return EstimatorOutputs(probabilities=graph.add("Softmax", halved, axis=1))
    scaled = graph.add("Div", decision, graph.constant(float(classes - 1)))
    return EstimatorOutputs(probabilities=graph.add("Softmax", scaled, axis=1))


@convert_scores.register(AdaBoostClassifier)
def _boosted_scores(step: AdaBoostClassifier, graph: Graph, block: Block) -> str:
    """SAMME: each member adds its weight to its class and subtracts a share from the others.

    Returns [rows, 1] or [rows, classes]. Zhu, Zou, Rosset, Hastie, "Multi-class AdaBoost", 2009.
    """
    classes = len(step.classes_)
    weights = np.asarray(step.estimator_weights_)[: len(step.estimators_)]
    if all(type(member) is DecisionTreeClassifier for member in step.estimators_):
        total = _tree_votes(step, weights, graph, block)
    else:
        total = graph.add("Sum", *_member_votes(step, weights, graph, block))
    total = graph.add("Div", total, graph.constant(float(weights.sum())))
    if classes > 2:
        return total
    return graph.product(total, graph.constant([[-1.0], [1.0]]))


def _tree_votes(step: AdaBoostClassifier, weights: Floats, graph: Graph, block: Block) -> str:
    trees = []
    for member, weight in zip(step.estimators_, weights, strict=True):
        tree = tree_of(member)
        chosen = _positions(member, step)[tree.values.argmax(axis=1)]
        tree.values = _samme(np.eye(len(step.classes_))[chosen], weight)
        trees.append(tree)
    axis = graph.constant([1], np.int64)
    found = leaf_values(graph, single_precision(graph, block), trees)
    return graph.add("ReduceSum", found, axis, keepdims=0)


def _member_votes(
    step: AdaBoostClassifier, weights: Floats, graph: Graph, block: Block
) -> list[str]:
    classes = len(step.classes_)
    found = []
    for member, weight in zip(step.estimators_, weights, strict=True):
        hot = one_hot_votes(
            graph,
            predicted_class(graph, convert_estimator(member, graph, block)),
            len(member.classes_),
        )
        hot = spread_classes(graph, hot, _positions(member, step).tolist(), classes)
        low, high = _samme(np.array([0.0, 1.0]), weight, classes)
        scaled = graph.add("Mul", hot, graph.constant(float(high - low)))
        found.append(graph.add("Add", scaled, graph.constant(float(low))))
    return found


def _samme(chosen: Floats, weight: float, classes: int | None = None) -> Floats:
    count = classes or chosen.shape[1]
    return np.where(chosen == 1, weight, -1 / (count - 1) * weight)


def _positions(member: Any, step: Any) -> npt.NDArray[np.intp]:
    """The indices of a member's classes among the ensemble's classes."""
    return np.asarray(np.searchsorted(step.classes_, member.classes_), dtype=np.intp)


@convert_estimator.register(AdaBoostRegressor)
def _boosted_values(step: AdaBoostRegressor, graph: Graph, block: Block) -> EstimatorOutputs:
    """The weighted median: the smallest value with at least half of the weight at or below it."""
    weights = np.asarray(step.estimator_weights_)[: len(step.estimators_)]
    found = _member_values(step, graph, block)
    count = graph.constant([len(weights)], np.int64)
    # TopK is the only operation that also returns the order; it has two results.
    ordered, order = graph.pair("TopK", found, count, axis=1, largest=0, sorted=1)
    mass = graph.add("Gather", graph.constant(weights), order)
    mass = graph.add("CumSum", mass, graph.constant(1, np.int64))
    whole = graph.columns(mass, [len(weights) - 1])
    half = graph.add("Mul", whole, graph.constant(0.5))
    enough = graph.cast(graph.add("GreaterOrEqual", mass, half), INT64)
    position = graph.add("ArgMax", enough, axis=1, keepdims=1)
    return EstimatorOutputs(value=graph.add("GatherElements", ordered, position, axis=1))


def _member_values(step: AdaBoostRegressor, graph: Graph, block: Block) -> str:
    if all(type(member) is DecisionTreeRegressor for member in step.estimators_):
        found = leaf_values(
            graph, single_precision(graph, block), [tree_of(m) for m in step.estimators_]
        )
        return graph.reshape(found, -1, len(step.estimators_))
    return graph.stack([regressor_value(member, graph, block) for member in step.estimators_])

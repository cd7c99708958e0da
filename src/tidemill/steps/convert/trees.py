"""Decision trees and averages of them, exact to the last bit.

scikit-learn rounds a tree's inputs to single precision and compares them with thresholds in double
precision: x <= t. Rounding t down to single precision changes no comparison, so a classifier's
nodes are single. The sum of the leaves is still computed in double precision:

- one value a leaf (regression): the nodes are double too, and the inputs are rounded to single;
- all leaves pure: the leaves vote, and votes are integers;
- otherwise the trees return which leaf a row reached, and a table holds the leaves' values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tidemill.steps.convert.blocks import Block, matrix
from tidemill.steps.convert.dispatch import EstimatorOutputs, convert_estimator
from tidemill.steps.convert.graph import FLOAT, INT64, Graph

Floats = npt.NDArray[np.float64]
LEQ, LT, MEMBER = 0, 1, 6  # how a node compares; MEMBER: is the value in a set?


@dataclass
class Tree:
    """One tree as arrays over its nodes, the root first; leaves have `left` -1.

    Attributes:
        values: [nodes, outputs]; only those of leaves are used.
        features: Positions in the ensemble's input matrix.
        missing_left: Whether NaN goes left.
        modes: How the feature is compared with the threshold to go left; one for all nodes or each.
        members: The set of each node with the mode MEMBER.
    """

    left: npt.NDArray[np.intp]
    right: npt.NDArray[np.intp]
    features: npt.NDArray[np.intp]
    thresholds: Floats
    missing_left: npt.NDArray[np.bool_]
    values: Floats
    modes: npt.NDArray[np.intp] | int = LEQ
    members: Mapping[int, Sequence[float]] = field(default_factory=dict)

    @property
    def leaves(self) -> npt.NDArray[np.bool_]:
        return np.equal(self.left, -1)


@dataclass
class _Arrays:
    """The attributes of a TreeEnsemble by name, one array a tree."""

    parts: dict[str, list[npt.NDArray[Any]]] = field(default_factory=lambda: defaultdict(list))
    members: list[float] = field(default_factory=list)
    nodes: int = 0
    leaves: int = 0

    def add_tree(self, tree: Tree, targets: npt.NDArray[Any], weights: npt.NDArray[Any]) -> None:
        """Add a tree; its leaves add `weights` [nodes] to the outputs `targets` [nodes]."""
        if tree.leaves[0]:
            tree, targets, weights = _with_root(tree, targets, weights)
        leaf = tree.leaves
        inner, ends = np.flatnonzero(~leaf), np.flatnonzero(leaf)
        position = np.empty(len(leaf), dtype=np.int64)
        position[inner] = self.nodes + np.arange(len(inner))
        position[ends] = self.leaves + np.arange(len(ends))
        self._add("tree_roots", position[:1])
        self._add("nodes_featureids", tree.features[inner])
        self._add("nodes_splits", tree.thresholds[inner])
        self._add("nodes_modes", np.broadcast_to(tree.modes, len(leaf))[inner])
        self._add("nodes_missing_value_tracks_true", tree.missing_left[inner].astype(np.int64))
        for name, children in (("true", tree.left[inner]), ("false", tree.right[inner])):
            self._add(f"nodes_{name}nodeids", position[children])
            self._add(f"nodes_{name}leafs", leaf[children].astype(np.int64))
        self._add("leaf_targetids", targets[ends])
        self._add("leaf_weights", weights[ends])
        for node in sorted(tree.members):
            self.members += [*tree.members[node], np.nan]
        self.nodes, self.leaves = self.nodes + len(inner), self.leaves + len(ends)

    def _add(self, name: str, values: npt.NDArray[Any]) -> None:
        self.parts[name].append(values)

    def attributes(self, dtype: Any) -> dict[str, Any]:
        """The attributes for ONNX: thresholds and weights as tensors, others as lists."""
        whole: dict[str, Any] = {name: np.concatenate(p) for name, p in self.parts.items()}
        tensors = {
            "nodes_splits": _rounded(whole["nodes_splits"], dtype),
            "nodes_modes": whole["nodes_modes"].astype(np.uint8),
            "leaf_weights": whole["leaf_weights"].astype(dtype),
        }
        if self.members:
            tensors["membership_values"] = np.array(self.members, dtype)
        return whole | {name: numpy_helper.from_array(array) for name, array in tensors.items()}


def _with_root(tree: Tree, targets: Any, weights: Any) -> tuple[Tree, Any, Any]:
    """A tree of a single leaf, as a node with two copies of the leaf."""
    rooted = Tree(
        left=np.array([1, -1, -1]),
        right=np.array([2, -1, -1]),
        features=np.zeros(3, dtype=int),
        thresholds=np.zeros(3),
        missing_left=np.zeros(3, dtype=bool),
        values=np.repeat(tree.values[:1], 3, axis=0),
    )
    return rooted, np.repeat(targets[:1], 3), np.repeat(weights[:1], 3)


def ensemble(
    graph: Graph,
    name: str,
    parts: Sequence[tuple[Tree, npt.NDArray[Any], npt.NDArray[Any]]],
    outputs: int,
    dtype: type[np.float32] | type[np.float64],
) -> str:
    """The sum of trees: [rows, outputs], of the same type as the input `name`.

    Args:
        parts: Trees, each with the output [nodes] and the weight [nodes] of its leaves.
    """
    arrays = _Arrays()
    for tree, targets, weights in parts:
        arrays.add_tree(tree, targets, weights)
    return graph.ml(
        "TreeEnsemble",
        name,
        n_targets=outputs,
        aggregate_function=1,
        **arrays.attributes(dtype),
    )


def _rounded(splits: npt.ArrayLike, dtype: Any) -> npt.NDArray[Any]:
    """Thresholds rounded down to a precision."""
    exact = np.asarray(splits, np.float64)
    with np.errstate(over="ignore"):
        near = exact.astype(dtype)
    too_high = near.astype(np.float64) > exact
    near[too_high] = np.nextafter(near[too_high], np.array(-np.inf, dtype))
    return near


def leaf_values(graph: Graph, name: str, trees: Sequence[Tree]) -> str:
    """Every tree's leaf values, double [rows, trees, outputs]; `name` is a single matrix."""
    table = np.concatenate([tree.values[tree.leaves] for tree in trees])
    wide = len(table) >= 2**24  # beyond the integers of single precision
    parts, first = [], 0
    for i, tree in enumerate(trees):
        number = np.zeros(len(tree.left))
        number[tree.leaves] = first + np.arange(tree.leaves.sum())
        first += int(tree.leaves.sum())
        parts.append((tree, np.full(len(tree.left), i), number))
    name, dtype = (graph.double(name), np.float64) if wide else (name, np.float32)
    reached = graph.cast(ensemble(graph, name, parts, len(trees), dtype), INT64)
    return graph.add("Gather", graph.constant(table), reached, axis=0)


def mean_of_trees(graph: Graph, name: str, trees: Sequence[Tree]) -> str:
    """The mean of the trees' leaf values, double [rows, outputs]; `name` is a single matrix."""
    if trees[0].values.shape[1] == 1:
        return graph.add("Div", sum_of_trees(graph, name, trees), graph.constant(float(len(trees))))
    if all(_pure(tree.values[tree.leaves]) for tree in trees):
        return _voted(graph, name, trees)
    axis = graph.constant([1], np.int64)
    total = graph.add("ReduceSum", leaf_values(graph, name, trees), axis, keepdims=0)
    return graph.add("Div", total, graph.constant(float(len(trees))))


def sum_of_trees(graph: Graph, name: str, trees: Sequence[Tree]) -> str:
    """The sum of trees with one value a leaf, double [rows, 1]; `name` is a single matrix."""
    parts = [(tree, np.zeros(len(tree.left), int), tree.values[:, 0]) for tree in trees]
    return ensemble(graph, graph.double(name), parts, 1, np.float64)


def _voted(graph: Graph, name: str, trees: Sequence[Tree]) -> str:
    outputs, count = trees[0].values.shape[1], graph.constant(float(len(trees)))
    votes = [tree.values.argmax(axis=1) for tree in trees]
    if outputs == 2:
        # Only the second class's sum: ONNX Runtime is faster with it for many rows.
        parts = [(t, np.zeros_like(v), v.astype(float)) for t, v in zip(trees, votes, strict=True)]
        second = graph.double(ensemble(graph, name, parts, 1, np.float32))
        both = graph.stack([graph.add("Sub", count, second), second])
        return graph.add("Div", both, count)
    parts = [(tree, vote, np.ones(len(vote))) for tree, vote in zip(trees, votes, strict=True)]
    return graph.add("Div", graph.double(ensemble(graph, name, parts, outputs, np.float32)), count)


def _pure(values: Floats) -> bool:
    return bool((values.max(axis=1) == 1.0).all() and (values.sum(axis=1) == 1.0).all())


def tree_of(step: Any, features: Any = None, outputs: int | None = None) -> Tree:
    """Convert a fitted scikit-learn decision tree.

    Args:
        features: The positions of the columns that it was fitted on in the input matrix.
        outputs: The total number of classes, if the tree's integer classes are some of them.
    """
    tree = step.tree_
    values = tree.value[:, 0, :]
    if outputs is not None and list(step.classes_) != list(range(outputs)):
        spread = np.zeros((len(values), outputs))
        spread[:, np.asarray(step.classes_, int)] = values
        values = spread
    index = np.asarray(tree.feature, int)
    return Tree(
        left=np.asarray(tree.children_left, int),
        right=np.asarray(tree.children_right, int),
        features=index if features is None else np.asarray(features)[np.maximum(index, 0)],
        thresholds=np.asarray(tree.threshold, float),
        missing_left=np.asarray(tree.missing_go_to_left, bool),
        values=np.asarray(values, float),
    )


def single_precision(graph: Graph, block: Block) -> str:
    """Round the block to single precision, as scikit-learn's trees do."""
    return graph.cast(matrix(graph, block), FLOAT)


@convert_estimator.register(DecisionTreeClassifier)
@convert_estimator.register(DecisionTreeRegressor)
def _tree(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    return _outcome(step, mean_of_trees(graph, single_precision(graph, block), [tree_of(step)]))


@convert_estimator.register(RandomForestClassifier)
@convert_estimator.register(RandomForestRegressor)
@convert_estimator.register(ExtraTreesClassifier)
@convert_estimator.register(ExtraTreesRegressor)
def _forest(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    trees = [tree_of(tree) for tree in step.estimators_]
    return _outcome(step, mean_of_trees(graph, single_precision(graph, block), trees))


def _outcome(step: Any, name: str) -> EstimatorOutputs:
    if hasattr(step, "classes_"):
        return EstimatorOutputs(probabilities=name)
    return EstimatorOutputs(value=name)

"""scikit-learn's gradient boosting, classic and histogram-based: baseline, sum of trees, link."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)

from tidemill.errors import ExportError
from tidemill.steps.convert.blocks import (
    Block,
    DateBlock,
    TensorBlock,
    as_numbers,
    concatenate,
    matrix,
)
from tidemill.steps.convert.dispatch import (
    EstimatorOutputs,
    call_quietly,
    convert_estimator,
    convert_scores,
    convert_transformer,
)
from tidemill.steps.convert.graph import Graph
from tidemill.steps.convert.linear import two_columns
from tidemill.steps.convert.trees import LEQ, MEMBER, Tree, ensemble, single_precision, tree_of

Floats = npt.NDArray[np.float64]


@convert_estimator.register(HistGradientBoostingRegressor)
def _histogram_regressor(
    step: HistGradientBoostingRegressor, graph: Graph, block: Block
) -> EstimatorOutputs:
    raw = _histogram_raw(step, graph, block)
    positive = step.loss in ("poisson", "gamma")  # their link is the logarithm
    return EstimatorOutputs(value=graph.add("Exp", raw) if positive else raw)


@convert_estimator.register(HistGradientBoostingClassifier)
def _histogram_classifier(
    step: HistGradientBoostingClassifier, graph: Graph, block: Block
) -> EstimatorOutputs:
    return EstimatorOutputs(
        probabilities=class_probabilities(graph, _histogram_raw(step, graph, block), step)
    )


@convert_scores.register(HistGradientBoostingClassifier)
def _histogram_raw(step: Any, graph: Graph, block: Block) -> str:
    """The sum of baseline and trees, double [rows, 1 or classes]. The trees compare doubles."""
    stages = [[_histogram_tree(tree) for tree in stage] for stage in step._predictors]
    name = matrix(graph, _categories_first(step, graph, block))
    return boosted_scores(graph, name, _by_output(stages), np.ravel(step._baseline_prediction))


def _categories_first(step: Any, graph: Graph, block: Block) -> Block:
    """The input of the trees: the categorical columns' codes, then the other columns."""
    if step.is_categorical_ is None:
        return block
    if isinstance(block, TensorBlock | DateBlock):
        raise ExportError(f"{type(step).__name__} gets a tensor or dates.")
    chosen, others = np.flatnonzero(step.is_categorical_), np.flatnonzero(~step.is_categorical_)
    encoder = step._preprocessor.named_transformers_["encoder"]
    codes = as_numbers(graph, convert_transformer(encoder, graph, block.take(chosen)))
    return concatenate(graph, [codes, *(as_numbers(graph, block.take([i])) for i in others)])


def _histogram_tree(predictor: Any) -> Tree:
    nodes = predictor.nodes
    leaf = nodes["is_leaf"].astype(bool)
    return Tree(
        left=np.where(leaf, -1, nodes["left"].astype(int)),
        right=np.where(leaf, -1, nodes["right"].astype(int)),
        features=nodes["feature_idx"].astype(int),
        thresholds=nodes["num_threshold"].astype(float),
        missing_left=nodes["missing_go_to_left"].astype(bool),
        values=nodes["value"].astype(float)[:, None],
        modes=np.where(nodes["is_categorical"], MEMBER, LEQ),
        members={
            int(i): _members(predictor.raw_left_cat_bitsets[nodes["bitset_idx"][i]])
            for i in np.flatnonzero(nodes["is_categorical"] & ~leaf)
        },
    )


def _members(bitset: Any) -> list[float]:
    """The codes in a set of 256 bits, stored in eight 32-bit words."""
    words = np.asarray(bitset, np.uint32)
    return [float(i) for i in range(256) if words[i // 32] >> np.uint32(i % 32) & np.uint32(1)]


def _by_output(stages: Sequence[Sequence[Tree]]) -> list[tuple[int, Tree]]:
    """The trees of all stages, each with the index of its output."""
    return [(output, tree) for stage in stages for output, tree in enumerate(stage)]


def boosted_scores(graph: Graph, name: str, trees: Sequence[tuple[int, Tree]], base: Floats) -> str:
    """The sum of base [outputs] and trees: double [rows, outputs].

    Args:
        name: A double matrix, rounded to single precision for trees that compare singles.
        trees: Each with the index of the output that it adds to.
    """
    parts = [(tree, np.full(len(tree.left), output), tree.values[:, 0]) for output, tree in trees]
    total = ensemble(graph, name, parts, len(base), np.float64)
    return graph.add("Add", total, graph.constant(base)) if base.any() else total


def class_probabilities(graph: Graph, raw: str, step: Any, factor: float = 1.0) -> str:
    """Probabilities from raw scores: the sigmoid of one, the softmax of several."""
    if len(step.classes_) > 2:
        return graph.add("Softmax", raw, axis=1)
    if factor != 1.0:
        raw = graph.add("Mul", raw, graph.constant(factor))
    return two_columns(graph, graph.add("Sigmoid", raw))


@convert_estimator.register(GradientBoostingRegressor)
def _regressor(step: GradientBoostingRegressor, graph: Graph, block: Block) -> EstimatorOutputs:
    return EstimatorOutputs(value=_gradient_raw(step, graph, block))


@convert_estimator.register(GradientBoostingClassifier)
def _classifier(step: GradientBoostingClassifier, graph: Graph, block: Block) -> EstimatorOutputs:
    # The exponential loss's link has half the slope of the logistic one's.
    factor = 2.0 if step.loss == "exponential" else 1.0
    return EstimatorOutputs(
        probabilities=class_probabilities(graph, _gradient_raw(step, graph, block), step, factor)
    )


@convert_scores.register(GradientBoostingClassifier)
def _gradient_raw(step: Any, graph: Graph, block: Block) -> str:
    stages = [
        [_scaled(tree_of(tree), step.learning_rate) for tree in stage] for stage in step.estimators_
    ]
    rounded = graph.double(single_precision(graph, block))
    return boosted_scores(graph, rounded, _by_output(stages), _baseline(step))


def _scaled(tree: Tree, rate: float) -> Tree:
    tree.values = tree.values * rate
    return tree


def _baseline(step: Any) -> Floats:
    """The initial score: the model's score for some row minus the trees' contributions to it."""
    if not isinstance(step.init_, DummyClassifier | DummyRegressor | str):
        raise ExportError(
            f"{type(step).__name__} that starts from an estimator has no compiled form."
        )
    zeros = np.zeros((1, step.n_features_in_))
    whole = step.decision_function if hasattr(step, "classes_") else step.predict
    added = [sum(t.predict(zeros)[0] for t in column) for column in np.asarray(step.estimators_).T]
    return np.asarray(np.ravel(call_quietly(whole, zeros)) - step.learning_rate * np.array(added))

"""Linear models, in double precision; a preceding scaler is folded into the coefficients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.cross_decomposition import CCA, PLSCanonical, PLSRegression
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import GammaRegressor, PoissonRegressor, SGDClassifier, TweedieRegressor
from sklearn.linear_model._base import LinearClassifierMixin, LinearModel

from tidemill.steps.convert.blocks import Block, as_numbers, materialize, matrix
from tidemill.steps.convert.dispatch import EstimatorOutputs, convert_estimator, convert_scores
from tidemill.steps.convert.graph import Graph

Floats = npt.NDArray[np.float64]


def affine(graph: Graph, block: Block, coefficients: Floats, constant: Any) -> str:
    """block @ coefficients.T + constant: [rows, outputs].

    Args:
        coefficients: [outputs, width].
        constant: [outputs] or one number.
    """
    columns = as_numbers(graph, block)
    weights = np.atleast_2d(np.asarray(coefficients, float))
    bias = np.broadcast_to(np.asarray(constant, float).ravel(), len(weights)).copy()
    weights = weights / columns.scale
    bias -= weights @ columns.shift
    unscaled = columns.scaled(np.zeros(columns.width), np.ones(columns.width))
    name = matrix(graph, unscaled)
    return graph.add("Gemm", name, graph.constant(weights.T.copy()), graph.constant(bias))


@convert_estimator.register(LinearModel)
def _regressor(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    return EstimatorOutputs(value=affine(graph, block, step.coef_, step.intercept_))


@convert_estimator.register(PoissonRegressor)
@convert_estimator.register(GammaRegressor)
def _log_link(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    return EstimatorOutputs(
        value=graph.add("Exp", affine(graph, block, step.coef_, step.intercept_))
    )


@convert_estimator.register(TweedieRegressor)
def _tweedie(step: TweedieRegressor, graph: Graph, block: Block) -> EstimatorOutputs:
    identity = step.link == "identity" or (step.link == "auto" and step.power <= 0)
    handler: Callable[..., EstimatorOutputs] = _regressor if identity else _log_link
    return handler(step, graph, block)


@convert_estimator.register(CCA)
@convert_estimator.register(PLSCanonical)
@convert_estimator.register(PLSRegression)
def _pls(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    columns = materialize(graph, block)
    shift = np.asarray(step._x_mean, float)
    return EstimatorOutputs(
        value=affine(
            graph, columns.scaled(shift, np.ones(columns.width)), step.coef_, step.intercept_
        )
    )


@convert_scores.register(LinearClassifierMixin)
def _decision(step: Any, graph: Graph, block: Block) -> str:
    return affine(graph, block, step.coef_, step.intercept_)


@convert_estimator.register(LinearClassifierMixin)
def _classifier(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    margin = _margins(step, graph, block)
    if not hasattr(step, "predict_proba"):
        return EstimatorOutputs(label=graph.add("ArgMax", margin, axis=1, keepdims=0))
    if len(step.classes_) == 2 or _is_multinomial(step):
        return EstimatorOutputs(probabilities=graph.add("Softmax", margin, axis=1))
    shares = graph.add("Sigmoid", margin)
    return EstimatorOutputs(
        probabilities=normalize_rows(graph, shares),
        label=graph.add("ArgMax", margin, axis=1, keepdims=0),
    )


@convert_estimator.register(SGDClassifier)
def _sgd(step: SGDClassifier, graph: Graph, block: Block) -> EstimatorOutputs:
    if step.loss != "modified_huber":
        found: EstimatorOutputs = _classifier(step, graph, block)
        return found
    margin = _decision(step, graph, block)
    return modified_huber(graph, margin, len(step.classes_))


def _margins(step: Any, graph: Graph, block: Block) -> str:
    """One score a class; for two classes 0 and the decision, whose softmax is the sigmoid."""
    weights, bias = np.atleast_2d(step.coef_), np.ravel(step.intercept_)
    if len(weights) == 1:
        weights = np.vstack([np.zeros_like(weights), weights])
        bias = np.concatenate([[0.0], np.broadcast_to(bias, 1)])
    return affine(graph, block, weights, bias)


def _is_multinomial(step: Any) -> bool:
    if isinstance(step, LinearDiscriminantAnalysis):
        return True
    if isinstance(step, SGDClassifier):
        return False
    return step.solver != "liblinear" and getattr(step, "multi_class", "auto") != "ovr"


def normalize_rows(graph: Graph, parts: str) -> str:
    """Each row divided by its sum."""
    axis = graph.constant([1], np.int64)
    return graph.add("Div", parts, graph.add("ReduceSum", parts, axis, keepdims=1))


def two_columns(graph: Graph, positive: str) -> str:
    """[1 - p, p] from p [rows, 1]."""
    return graph.stack([graph.add("Sub", graph.constant(1.0), positive), positive])


def modified_huber(graph: Graph, margin: str, classes: int) -> EstimatorOutputs:
    """(clip(margin, -1, 1) + 1) / 2, normalized; equal for all classes if all are 0.

    Zhang, "Solving large scale linear prediction problems using stochastic gradient descent",
    ICML 2004; as scikit-learn's SGDClassifier computes it.
    """
    low, high = graph.constant(-1.0), graph.constant(1.0)
    half = graph.constant(2.0)
    share = graph.add("Div", graph.add("Add", graph.add("Clip", margin, low, high), high), half)
    if classes == 2:
        zero = graph.constant(0.0)
        label = graph.add("Greater", margin, zero)
        flat = graph.reshape(graph.cast(label, 7), -1)
        return EstimatorOutputs(probabilities=two_columns(graph, share), label=flat)
    axis = graph.constant([1], np.int64)
    none = graph.add("Equal", graph.add("ReduceSum", share, axis, keepdims=1), graph.constant(0.0))
    share = graph.add("Where", none, graph.constant(1.0), share)
    label = graph.add("ArgMax", margin, axis=1, keepdims=0)
    return EstimatorOutputs(probabilities=normalize_rows(graph, share), label=label)

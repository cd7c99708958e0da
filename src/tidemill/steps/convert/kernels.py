"""Kernel methods, in double precision: support vector machines and kernel ridge regression."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.kernel_ridge import KernelRidge
from sklearn.svm import SVC, SVR, NuSVC, NuSVR

from tidemill.errors import ExportError
from tidemill.steps.convert.blocks import Block, matrix
from tidemill.steps.convert.dispatch import EstimatorOutputs, convert_estimator, convert_scores
from tidemill.steps.convert.graph import DOUBLE, INT64, Graph
from tidemill.steps.convert.wrappers import pairwise_votes

Floats = npt.NDArray[np.float64]


def kernel(step: Any, graph: Graph, block: Block, points: Floats, gamma: float) -> str:
    """The kernel of each row and each point: [rows, points].

    Args:
        points: [points, width].

    Raises:
        ExportError: The kernel is a callable, or one that has no compiled form.
    """
    rows = matrix(graph, block)
    dot = graph.product(rows, graph.constant(np.ascontiguousarray(points.T)))
    if step.kernel == "linear":
        return dot
    if step.kernel == "rbf":
        return _gaussian(graph, rows, dot, points, gamma)
    if step.kernel not in ("poly", "polynomial", "sigmoid"):
        raise ExportError(f"{type(step).__name__}(kernel={step.kernel!r}) has no compiled form.")
    scaled = graph.add("Mul", dot, graph.constant(gamma))
    scaled = graph.add("Add", scaled, graph.constant(float(step.coef0)))
    if step.kernel == "sigmoid":
        return graph.add("Tanh", scaled)
    return graph.add("Pow", scaled, graph.constant(float(step.degree)))


def _gaussian(graph: Graph, rows: str, dot: str, points: Floats, gamma: float) -> str:
    """exp(-gamma |row - point|^2)."""
    axis = graph.constant([1], np.int64)
    own = graph.add("ReduceSumSquare", rows, axis, keepdims=1)
    twice = graph.add("Mul", dot, graph.constant(-2.0))
    apart = graph.add("Add", graph.add("Add", own, twice), graph.constant((points**2).sum(axis=1)))
    return graph.add("Exp", graph.add("Mul", apart, graph.constant(-gamma)))


@convert_estimator.register(SVR)
@convert_estimator.register(NuSVR)
def _regressor(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    near = kernel(step, graph, block, step.support_vectors_, step._gamma)
    weights = graph.constant(np.ascontiguousarray(step.dual_coef_.T))
    return EstimatorOutputs(value=graph.add("Gemm", near, weights, graph.constant(step.intercept_)))


@convert_estimator.register(KernelRidge)
def _ridge(step: KernelRidge, graph: Graph, block: Block) -> EstimatorOutputs:
    width = np.shape(step.X_fit_)[1]
    gamma = 1.0 / width if step.gamma is None else float(step.gamma)
    near = kernel(step, graph, block, np.asarray(step.X_fit_, float), gamma)
    return EstimatorOutputs(
        value=graph.product(near, graph.constant(np.reshape(step.dual_coef_, (-1, 1))))
    )


@convert_estimator.register(SVC)
@convert_estimator.register(NuSVC)
def _classifier(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    if hasattr(step, "predict_proba"):
        raise ExportError(
            f"{type(step).__name__}(probability=True) has no compiled form, because libsvm "
            "computes the probabilities iteratively. CalibratedClassifierCV around it has one."
        )
    classes = len(step.classes_)
    decision = _pairs(step, graph, block)
    second = graph.cast(graph.add("LessOrEqual", decision, graph.constant(0.0)), DOUBLE)
    if classes == 2:
        return EstimatorOutputs(label=graph.reshape(graph.cast(second, INT64), -1))
    ranked = pairwise_votes(graph, second, graph.add("Neg", decision), classes)
    if not step.break_ties:
        ranked = pairwise_votes(
            graph, second, graph.add("Mul", decision, graph.constant(0.0)), classes
        )
    return EstimatorOutputs(label=graph.add("ArgMax", ranked, axis=1, keepdims=0))


@convert_scores.register(SVC)
@convert_scores.register(NuSVC)
def _scores(step: Any, graph: Graph, block: Block) -> str:
    decision = graph.add("Neg", _pairs(step, graph, block))
    if len(step.classes_) == 2:
        return decision
    if step.decision_function_shape != "ovr":
        raise ExportError("Scores of pairs of classes have no compiled form.")
    second = graph.cast(graph.add("Greater", decision, graph.constant(0.0)), DOUBLE)
    return pairwise_votes(graph, second, decision, len(step.classes_))


def _pairs(step: Any, graph: Graph, block: Block) -> str:
    """libsvm's decision for each pair of classes, above 0 for the first one: [rows, pairs].

    The coefficients of class i's vectors against class j are in row j - 1 of `dual_coef_` if j > i,
    otherwise in row j. For two classes, scikit-learn has inverted the signs.
    """
    classes = len(step.classes_)
    sign = -1.0 if classes == 2 else 1.0
    coefficients = sign * np.asarray(step.dual_coef_, float)
    ends = np.cumsum(step.n_support_)
    spans = [slice(end - count, end) for end, count in zip(ends, step.n_support_, strict=True)]
    columns = []
    for i in range(classes):
        for j in range(i + 1, classes):
            column = np.zeros(len(step.support_vectors_))
            column[spans[i]] = coefficients[j - 1, spans[i]]
            column[spans[j]] = coefficients[i, spans[j]]
            columns.append(column)
    near = kernel(step, graph, block, step.support_vectors_, step._gamma)
    weights, constant = np.stack(columns, axis=1), sign * np.asarray(step.intercept_, float)
    return graph.add("Gemm", near, graph.constant(weights), graph.constant(constant))

"""Wrappers of a model: searches, thresholds, calibration, one against the rest, and baselines."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.feature_selection import RFE, RFECV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import RANSACRegressor
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.preprocessing import FunctionTransformer
from sklearn.semi_supervised import SelfTrainingClassifier

from tidemill.errors import ExportError
from tidemill.steps.convert.blocks import Block, as_numbers, matrix
from tidemill.steps.convert.columns import convert_ufunc
from tidemill.steps.convert.dispatch import (
    EstimatorOutputs,
    call_quietly,
    convert_estimator,
    convert_scores,
    convert_transformer,
    predicted_class,
)
from tidemill.steps.convert.ensembles import (
    classifier_probabilities,
    regressor_value,
    weighted_mean,
)
from tidemill.steps.convert.graph import INT64, Graph
from tidemill.steps.convert.linear import normalize_rows, two_columns

Floats = npt.NDArray[np.float64]
INNER = ("best_estimator_", "estimator_")


def inner_model(step: Any) -> Any:
    """The fitted model inside a wrapper."""
    return next((getattr(step, name) for name in INNER if hasattr(step, name)), step.estimator)


@convert_estimator.register(GridSearchCV)
@convert_estimator.register(RandomizedSearchCV)
@convert_estimator.register(FrozenEstimator)
@convert_estimator.register(RANSACRegressor)
def _inner(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    return convert_estimator(inner_model(step), graph, block)


@convert_scores.register(GridSearchCV)
@convert_scores.register(RandomizedSearchCV)
@convert_scores.register(FrozenEstimator)
@convert_scores.register(FixedThresholdClassifier)
@convert_scores.register(TunedThresholdClassifierCV)
@convert_scores.register(SelfTrainingClassifier)
def _inner_scores(step: Any, graph: Graph, block: Block) -> str:
    return convert_scores(inner_model(step), graph, block)


@convert_estimator.register(SelfTrainingClassifier)
def _self_trained(step: SelfTrainingClassifier, graph: Graph, block: Block) -> EstimatorOutputs:
    return convert_estimator(inner_model(step), graph, block)


@convert_estimator.register(RFE)
@convert_estimator.register(RFECV)
def _selected(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    return convert_estimator(step.estimator_, graph, convert_transformer(step, graph, block))


@convert_estimator.register(FixedThresholdClassifier)
@convert_estimator.register(TunedThresholdClassifierCV)
def _threshold(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    """The positive class if its score reaches the threshold, whatever the probabilities."""
    outcome = convert_estimator(inner_model(step), graph, block)
    method, limit, positive = _rule(step)
    if method == "predict_proba":
        assert outcome.probabilities is not None
        score = graph.columns(outcome.probabilities, [positive])
    else:
        score = convert_scores(inner_model(step), graph, block)
        score = score if positive == 1 else graph.add("Neg", score)
    reached = graph.add("GreaterOrEqual", score, graph.constant(limit))
    first, second = (graph.constant(i, np.int64) for i in (1 - positive, positive))
    chosen = graph.reshape(graph.add("Where", reached, second, first), -1)
    return EstimatorOutputs(probabilities=outcome.probabilities, label=chosen)


def _rule(step: Any) -> tuple[str, float, int]:
    """The scoring method, the threshold, and the index of the positive class."""
    method_setting = step.response_method
    names = ["predict_proba", "decision_function"] if method_setting == "auto" else [method_setting]
    method = next(name for name in names if hasattr(inner_model(step), name))
    limit: Any = getattr(step, "best_threshold_", getattr(step, "threshold", None))
    if limit == "auto":
        limit = 0.5 if method == "predict_proba" else 0.0
    positive = getattr(step, "pos_label", None)
    if isinstance(step, TunedThresholdClassifierCV):
        positive = step._curve_scorer._get_pos_label()
    index = 1 if positive is None else list(step.classes_).index(positive)
    return method, float(limit), index


@convert_estimator.register(CalibratedClassifierCV)
def _calibrated(step: CalibratedClassifierCV, graph: Graph, block: Block) -> EstimatorOutputs:
    classes = len(step.classes_)
    found = []
    for member in step.calibrated_classifiers_:
        if len(member.estimator.classes_) != classes:
            raise ExportError("A fold of the calibration has no rows of a class.")
        found.append(_calibrate(member, graph, block, classes))
    return EstimatorOutputs(probabilities=weighted_mean(graph, found))


def _calibrate(member: Any, graph: Graph, block: Block, classes: int) -> str:
    """Convert one fold's model with its calibrators."""
    by_score = hasattr(member.estimator, "decision_function")
    response = convert_scores if by_score else classifier_probabilities
    found = response(member.estimator, graph, block)
    if member.method == "temperature":
        return _temperature(member.calibrators[0], graph, found, by_score, classes)
    if classes == 2 and not by_score:
        found = graph.columns(found, [1])
    columns = [found] if classes == 2 else [graph.columns(found, [i]) for i in range(classes)]
    curves = zip(member.calibrators, columns, strict=True)
    parts = [calibrator_curve(calibrator, graph, column) for calibrator, column in curves]
    if classes == 2:
        return two_columns(graph, parts[0])
    return _normalize_or_uniform(graph, graph.stack(parts), classes)


def _normalize_or_uniform(graph: Graph, parts: str, classes: int) -> str:
    axis = graph.constant([1], np.int64)
    total = graph.add("ReduceSum", parts, axis, keepdims=1)
    none = graph.add("Equal", total, graph.constant(0.0))
    return graph.add("Where", none, graph.constant(1.0 / classes), normalize_rows(graph, parts))


def _temperature(step: Any, graph: Graph, found: str, by_score: bool, classes: int) -> str:
    if not by_score:
        found = graph.add("Log", graph.add("Add", found, graph.constant(1e-12)))
    elif classes == 2:
        found = graph.stack([graph.add("Neg", found), found])
    scaled = graph.add("Mul", found, graph.constant(float(step.beta_)))
    return graph.add("Softmax", scaled, axis=1)


def calibrator_curve(step: Any, graph: Graph, column: str) -> str:
    """Apply a fitted calibrator to scores [rows, 1]."""
    if isinstance(step, IsotonicRegression):
        return _isotonic(step, graph, column)
    scaled = graph.add("Mul", column, graph.constant(-float(step.a_)))
    return graph.add("Sigmoid", graph.add("Sub", scaled, graph.constant(float(step.b_))))


def _isotonic(step: IsotonicRegression, graph: Graph, column: str) -> str:
    """Piecewise linear between the thresholds and constant beyond: a sum of rises by piece."""
    x, y = np.asarray(step.X_thresholds_, float), np.asarray(step.y_thresholds_, float)
    if len(x) == 1:
        x, y = np.array([x[0], x[0] + 1]), np.repeat(y, 2)
    widths = np.diff(x)
    along = graph.add("Max", graph.add("Sub", column, graph.constant(x[:-1])), graph.constant(0.0))
    along = graph.add("Min", along, graph.constant(widths))
    slopes = np.diff(y) / widths
    return graph.add("Gemm", along, graph.constant(slopes[:, None]), graph.constant(y[:1]))


@convert_estimator.register(IsotonicRegression)
def _isotonic_answer(step: IsotonicRegression, graph: Graph, block: Block) -> EstimatorOutputs:
    if step.out_of_bounds != "clip":
        raise ExportError("IsotonicRegression has a compiled form only with out_of_bounds='clip'.")
    return EstimatorOutputs(value=_isotonic(step, graph, matrix(graph, block)))


@convert_estimator.register(OneVsRestClassifier)
def _one_vs_rest(step: OneVsRestClassifier, graph: Graph, block: Block) -> EstimatorOutputs:
    if step.multilabel_:
        raise ExportError("A multilabel classifier has no compiled form.")
    binary = [_confidence(member, graph, block) for member in step.estimators_]
    if len(binary) == 1:
        return convert_estimator(step.estimators_[0], graph, block)
    chosen = graph.add("ArgMax", graph.stack(binary), axis=1, keepdims=0)
    if not all(hasattr(member, "predict_proba") for member in step.estimators_):
        return EstimatorOutputs(label=chosen)
    found = [classifier_probabilities(member, graph, block) for member in step.estimators_]
    parts = graph.stack([graph.columns(name, [1]) for name in found])
    axis = graph.constant([1], np.int64)
    none = graph.add("Equal", graph.add("ReduceSum", parts, axis, keepdims=1), graph.constant(0.0))
    even = graph.add("Where", none, parts, normalize_rows(graph, parts))
    return EstimatorOutputs(probabilities=even, label=chosen)


def _confidence(member: Any, graph: Graph, block: Block) -> str:
    """A binary model's score or probability of its second class, [rows, 1]."""
    if hasattr(member, "decision_function"):
        return convert_scores(member, graph, block)
    if not hasattr(member, "predict_proba"):
        raise ExportError(f"{type(member).__name__} has neither scores nor probabilities.")
    return graph.columns(classifier_probabilities(member, graph, block), [1])


@convert_estimator.register(OneVsOneClassifier)
def _one_vs_one(step: OneVsOneClassifier, graph: Graph, block: Block) -> EstimatorOutputs:
    if step.pairwise_indices_ is not None:
        raise ExportError("OneVsOneClassifier of a kernel matrix has no compiled form.")
    confidence = [_confidence(member, graph, block) for member in step.estimators_]
    chosen = [
        graph.double(
            graph.reshape(predicted_class(graph, convert_estimator(member, graph, block)), -1, 1)
        )
        for member in step.estimators_
    ]
    rule = pairwise_votes(graph, graph.stack(chosen), graph.stack(confidence), len(step.classes_))
    if len(step.classes_) > 2:
        return EstimatorOutputs(label=graph.add("ArgMax", rule, axis=1, keepdims=0))
    limit = 0.0 if hasattr(step.estimators_[0], "decision_function") else 0.5
    second = graph.add("Greater", graph.columns(rule, [1]), graph.constant(limit))
    return EstimatorOutputs(label=graph.reshape(graph.cast(second, INT64), -1))


def pairwise_votes(graph: Graph, chosen: str, confidence: str, classes: int) -> str:
    """The votes of all pairs of classes, with ties broken by confidence: [rows, classes].

    Args:
        chosen: [rows, pairs] 1.0 if the pair's second class wins.
        confidence: [rows, pairs] the pair's confidence in its second class.
    """
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    first, second = np.zeros((len(pairs), classes)), np.zeros((len(pairs), classes))
    for k, (i, j) in enumerate(pairs):
        first[k, i] = second[k, j] = 1.0
    won = graph.product(chosen, graph.constant(second - first))
    won = graph.add("Add", won, graph.constant(first.sum(axis=0)))
    sums = graph.product(confidence, graph.constant(second - first))
    bound = graph.add("Add", graph.add("Abs", sums), graph.constant(1.0))
    third = graph.add("Div", sums, graph.add("Mul", bound, graph.constant(3.0)))
    return graph.add("Add", won, third)


@convert_estimator.register(TransformedTargetRegressor)
def _transformed_target(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    """The inner regressor's prediction, transformed back to the target's scale."""
    found = regressor_value(step.regressor_, graph, block)
    back = step.transformer_
    if isinstance(back, FunctionTransformer):
        return EstimatorOutputs(
            value=found if back.inverse_func is None else _function(back, graph, found)
        )
    low, high = call_quietly(back.inverse_transform, np.array([[0.0], [1.0]])).ravel()
    middle = call_quietly(back.inverse_transform, np.array([[0.5], [-3.0], [7.0]])).ravel()
    if not np.allclose(middle, low + (high - low) * np.array([0.5, -3.0, 7.0]), rtol=1e-12):
        raise ExportError(f"The target's {type(back).__name__} has no compiled inverse.")
    scaled = graph.add("Mul", found, graph.constant(float(high - low)))
    return EstimatorOutputs(value=graph.add("Add", scaled, graph.constant(float(low))))


def _function(back: Any, graph: Graph, found: str) -> str:
    return convert_ufunc(back.inverse_func, graph, found)


@convert_estimator.register(DummyClassifier)
def _constant_classes(step: DummyClassifier, graph: Graph, block: Block) -> EstimatorOutputs:
    if step.strategy in ("stratified", "uniform"):
        raise ExportError(f"DummyClassifier predicts at random with strategy='{step.strategy}'.")
    given = np.zeros((1, getattr(step, "n_features_in_", 1)))
    shares = call_quietly(step.predict_proba, given)
    return EstimatorOutputs(probabilities=_repeated(graph, block, shares[0]))


@convert_estimator.register(DummyRegressor)
def _constant_value(step: DummyRegressor, graph: Graph, block: Block) -> EstimatorOutputs:
    return EstimatorOutputs(value=_repeated(graph, block, np.ravel(step.constant_)))


def _repeated(graph: Graph, block: Block, row: Floats) -> str:
    """The same output row for every row of the block."""
    columns = as_numbers(graph, block)
    height = graph.add("Shape", columns.source, start=0, end=1)
    shape = graph.add("Concat", height, graph.constant([1], np.int64), axis=0)
    return graph.add("Expand", graph.constant([row]), shape)

"""XGBoost's scikit-learn classes. Inputs and thresholds are single, sums double."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost
from xgboost import XGBClassifier, XGBRegressor

from tidemill.errors import ExportError
from tidemill.steps.convert.blocks import Block
from tidemill.steps.convert.boosting import boosted_scores, class_probabilities
from tidemill.steps.convert.dispatch import EstimatorOutputs, convert_estimator
from tidemill.steps.convert.graph import Graph
from tidemill.steps.convert.trees import LT, Tree, single_precision

EXPONENTIAL = ("count:poisson", "reg:gamma", "reg:tweedie")
IDENTITY = ("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:quantileerror")
LOGISTIC = ("reg:logistic", "binary:logistic")  # the latter of a Booster
CLASSIFICATION = ("binary:logistic", "multi:softprob", "multi:softmax")


@convert_estimator.register(XGBClassifier)
def _classifier(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    raw, objective = _margin(step, graph, block)
    if objective not in CLASSIFICATION:
        raise ExportError(f"XGBoost's objective '{objective}' has no compiled form.")
    return EstimatorOutputs(probabilities=class_probabilities(graph, raw, step))


@convert_estimator.register(XGBRegressor)
def _regressor(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    raw, objective = _margin(step, graph, block)
    if objective in EXPONENTIAL:
        return EstimatorOutputs(value=graph.add("Exp", raw))
    if objective in LOGISTIC:
        return EstimatorOutputs(value=graph.add("Sigmoid", raw))
    if objective not in IDENTITY:
        raise ExportError(f"XGBoost's objective '{objective}' has no compiled form.")
    return EstimatorOutputs(value=raw)


def _margin(step: Any, graph: Graph, block: Block) -> tuple[str, str]:
    """The sum of the trees, double [rows, outputs], and the objective."""
    booster = step.get_booster()
    learner = json.loads(booster.save_raw("json"))["learner"]
    model = learner["gradient_booster"].get("model", {})
    if "trees" not in model or not np.isnan(step.missing):
        raise ExportError(
            "XGBoost has a compiled form only with trees, and with NaN for missing values."
        )
    last = getattr(booster, "best_iteration", None) if _stopped(step) else None
    count = len(model["trees"]) if last is None else model["iteration_indptr"][last + 1]
    trees = [_tree(tree) for tree in model["trees"][:count]]
    outputs = np.asarray(model["tree_info"][:count])
    base = _baseline(booster, trees, outputs, count)
    parts = list(zip(outputs.tolist(), trees, strict=True))
    rounded = graph.double(single_precision(graph, block))
    return boosted_scores(graph, rounded, parts, base), learner["objective"]["name"]


def _stopped(step: Any) -> bool:
    """Whether training may have stopped early: then only trees up to the best iteration count."""
    return step.get_params().get("early_stopping_rounds") is not None


def _tree(tree: Any) -> Tree:
    if any(tree.get("split_type", [])):
        raise ExportError("XGBoost's splits by category have no compiled form.")
    left, condition = np.array(tree["left_children"]), np.array(tree["split_conditions"])
    return Tree(
        left=left,
        right=np.array(tree["right_children"]),
        features=np.array(tree["split_indices"]),
        thresholds=condition.astype(np.float32).astype(float),
        missing_left=np.array(tree["default_left"], bool),
        values=condition.astype(np.float32).astype(float)[:, None],
        modes=LT,
    )


def _baseline(
    booster: Any, trees: list[Tree], outputs: npt.NDArray[Any], count: int
) -> npt.NDArray[np.float64]:
    """The prediction for a row of zeros minus the trees' contributions to it: [outputs]."""
    blank = np.zeros((1, booster.num_features()))
    zeros = xgboost.DMatrix(blank, feature_names=booster.feature_names)
    span = (0, max(1, count // max(1, len(set(outputs.tolist())))))
    given = {"iteration_range": span} if booster.attr("best_iteration") is not None else {}
    whole = np.ravel(booster.predict(zeros, output_margin=True, **given)).astype(float)
    leaves = np.ravel(booster.predict(zeros, pred_leaf=True, **given)).astype(int)
    for tree, output, leaf in zip(trees, outputs, leaves, strict=True):
        whole[output] -= tree.values[leaf, 0]
    return whole

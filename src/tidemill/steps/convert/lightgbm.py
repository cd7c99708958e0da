"""LightGBM's scikit-learn classes. LightGBM compares and adds doubles."""

from __future__ import annotations

from typing import Any

import numpy as np
from lightgbm import LGBMClassifier, LGBMRegressor

from tidemill.errors import ExportError
from tidemill.steps.convert.blocks import Block, matrix
from tidemill.steps.convert.boosting import boosted_scores, class_probabilities
from tidemill.steps.convert.dispatch import EstimatorOutputs, convert_estimator
from tidemill.steps.convert.graph import Graph
from tidemill.steps.convert.trees import Tree

EXPONENTIAL = ("poisson", "gamma", "tweedie")
IDENTITY = ("regression", "regression_l1", "huber", "fair", "quantile", "mape")


@convert_estimator.register(LGBMClassifier)
def _classifier(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    raw, objective = _sum(step, graph, block)
    if objective[0] not in ("binary", "multiclass"):
        raise ExportError(f"LightGBM's objective '{objective[0]}' has no compiled form.")
    return EstimatorOutputs(probabilities=class_probabilities(graph, raw, step, _slope(objective)))


@convert_estimator.register(LGBMRegressor)
def _regressor(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    raw, objective = _sum(step, graph, block)
    if objective[0] in EXPONENTIAL:
        return EstimatorOutputs(value=graph.add("Exp", raw))
    if objective[0] == "binary":  # of a Booster, which predicts the probability
        return EstimatorOutputs(value=graph.add("Sigmoid", _times(graph, raw, _slope(objective))))
    if objective[0] not in IDENTITY or "sqrt" in objective:
        raise ExportError(f"LightGBM's objective '{' '.join(objective)}' has no compiled form.")
    return EstimatorOutputs(value=raw)


def _slope(objective: list[str]) -> float:
    """The factor of the raw score inside the sigmoid."""
    options = dict(part.split(":") for part in objective[1:] if ":" in part)
    return float(options.get("sigmoid", 1.0))


def _times(graph: Graph, raw: str, factor: float) -> str:
    return raw if factor == 1.0 else graph.add("Mul", raw, graph.constant(factor))


def _sum(step: Any, graph: Graph, block: Block) -> tuple[str, list[str]]:
    """The sum of the trees, double [rows, outputs], and the objective with its options."""
    model = step.booster_.dump_model()
    outputs = int(model["num_tree_per_iteration"])
    trees = [_tree(entry["tree_structure"]) for entry in model["tree_info"]]
    parts = [(i % outputs, tree) for i, tree in enumerate(trees)]
    raw = boosted_scores(graph, matrix(graph, block), parts, np.zeros(outputs))
    if model["average_output"]:
        raw = graph.add("Div", raw, graph.constant(len(trees) / outputs))
    return raw, model["objective"].split()


def _tree(structure: Any) -> Tree:
    nodes: list[Any] = []
    _number(structure, nodes)
    leaf = np.array(["leaf_value" in node for node in nodes])
    splits = [{} if end else node for node, end in zip(nodes, leaf, strict=True)]
    return Tree(
        left=np.array([s["left_child"]["position"] if s else -1 for s in splits]),
        right=np.array([s["right_child"]["position"] if s else -1 for s in splits]),
        features=np.array([s.get("split_feature", 0) for s in splits]),
        thresholds=np.array([float(s.get("threshold", 0.0)) for s in splits]),
        missing_left=np.array([bool(s) and _missing_left(s) for s in splits]),
        values=np.array([float(node.get("leaf_value", 0.0)) for node in nodes])[:, None],
    )


def _number(node: Any, nodes: list[Any]) -> None:
    """Append every node to the list, the root first, and set its position."""
    if "leaf_coeff" in node or node.get("decision_type", "<=") != "<=":
        raise ExportError("LightGBM's linear trees and splits by category have no compiled form.")
    node["position"] = len(nodes)
    nodes.append(node)
    for side in ("left_child", "right_child"):
        if side in node:
            _number(node[side], nodes)


def _missing_left(split: Any) -> bool:
    """Whether NaN goes left; trained without missing values, LightGBM treats it as 0."""
    if split["missing_type"] == "None":
        return bool(float(split["threshold"]) >= 0)
    if split["missing_type"] == "NaN":
        return bool(split["default_left"])
    raise ExportError("LightGBM with zero_as_missing has no compiled form.")

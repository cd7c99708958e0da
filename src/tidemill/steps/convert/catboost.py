"""CatBoost's symmetric trees of numeric features. Inputs and borders are single, sums double."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from catboost import CatBoostClassifier, CatBoostRegressor

from tidemill.errors import ExportError
from tidemill.steps.convert.blocks import Block
from tidemill.steps.convert.boosting import class_probabilities
from tidemill.steps.convert.dispatch import EstimatorOutputs, convert_estimator
from tidemill.steps.convert.graph import Graph
from tidemill.steps.convert.trees import Tree, leaf_values, single_precision, sum_of_trees

EXPONENTIAL = ("Poisson", "Tweedie")
IDENTITY = ("RMSE", "MAE", "Quantile", "MAPE", "Huber", "LogCosh")


@convert_estimator.register(CatBoostClassifier)
def _classifier(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    loss = _loss(step)
    if loss not in ("Logloss", "CrossEntropy", "MultiClass"):
        raise ExportError(f"CatBoost's loss '{loss}' has no compiled form.")
    return EstimatorOutputs(
        probabilities=class_probabilities(graph, _sum(step, graph, block), step)
    )


@convert_estimator.register(CatBoostRegressor)
def _regressor(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    loss, raw = _loss(step), _sum(step, graph, block)
    if loss in EXPONENTIAL:
        return EstimatorOutputs(value=graph.add("Exp", raw))
    if loss not in IDENTITY:
        raise ExportError(f"CatBoost's loss '{loss}' has no compiled form.")
    return EstimatorOutputs(value=raw)


def _loss(step: Any) -> str:
    return str(step.get_all_params()["loss_function"]).split(":")[0]


def _sum(step: Any, graph: Graph, block: Block) -> str:
    """The scaled and shifted sum of the trees, double [rows, outputs]."""
    model = _dumped(step)
    if "oblivious_trees" not in model:
        raise ExportError("CatBoost has a compiled form only with symmetric trees.")
    scale, bias = model["scale_and_bias"]
    features = {f["feature_index"]: f for f in model["features_info"]["float_features"]}
    trees = [_tree(tree, features, len(bias)) for tree in model["oblivious_trees"]]
    name = single_precision(graph, block)
    if len(bias) == 1:
        total = sum_of_trees(graph, name, trees)
    else:
        axis = graph.constant([1], np.int64)
        total = graph.add("ReduceSum", leaf_values(graph, name, trees), axis, keepdims=0)
    scaled = graph.add("Mul", total, graph.constant(float(scale)))
    return graph.add("Add", scaled, graph.constant(np.array(bias, float)))


def _dumped(step: Any) -> Any:
    with tempfile.TemporaryDirectory(prefix="tidemill-") as folder:
        path = Path(folder, "model.json")
        step.save_model(str(path), format="json")
        return json.loads(path.read_text())


def _tree(tree: Any, features: Any, outputs: int) -> Tree:
    """A full binary tree: split i decides bit i of the leaf's number, the last split comes first.

    Node n of the levels above the leaves has the children 2n + 1 and 2n + 2.
    """
    splits = tree["splits"][::-1]
    if any(split["split_type"] != "FloatFeature" for split in splits):
        raise ExportError("CatBoost's categorical features have no compiled form.")
    depth = len(splits)
    inner, leaves = 2**depth - 1, 2**depth
    nodes = np.arange(inner)
    level = [splits[int(np.log2(n + 1))] for n in nodes]
    index = [split["float_feature_index"] for split in level]
    ends = np.full(leaves, -1)
    treated = [features[i]["nan_value_treatment"] for i in index]
    blank = np.zeros(leaves, int)
    return Tree(
        left=np.concatenate([2 * nodes + 1, ends]),
        right=np.concatenate([2 * nodes + 2, ends]),
        features=np.concatenate([[features[i]["flat_feature_index"] for i in index], blank]).astype(
            int
        ),
        thresholds=np.concatenate([[split["border"] for split in level], blank]).astype(float),
        missing_left=np.concatenate([[t != "AsTrue" for t in treated], blank]).astype(bool),
        values=np.vstack(
            [np.zeros((inner, outputs)), np.reshape(tree["leaf_values"], (leaves, outputs))]
        ),
    )

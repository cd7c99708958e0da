"""Who compiles what: one short handler for each type of step, found by the step's class.

    @transform.register(StandardScaler)
    def _scale(step, graph, block): ...        a block of columns to a block of columns

    @answer.register(LogisticRegression)
    def _logistic(step, graph, block): ...     a block of columns to an Outcome

    @scores.register(LogisticRegression)       what `decision_function` gives, where another
    def _(step, graph, block): ...             estimator is built on it

A class without a handler goes to skl2onnx (`foreign`), with its input and output in the graph's
double precision. A handler raises ExportError when it cannot express a step; what it can express is
still compared with the native model before it is used.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np

from tidemill.steps.convert.blocks import Block
from tidemill.steps.convert.graph import Graph


@dataclass(frozen=True)
class EstimatorOutputs:
    """The names of an estimator's results in the graph.

    Attributes:
        probabilities: float [rows, classes], in the order of the estimator's `classes_`.
        label: int64 [rows], index into `classes_`; None when it is the argmax of the probabilities
            by the way the estimator predicts.
        value: float64 [rows, 1], of a regressor.
    """

    probabilities: str | None = None
    label: str | None = None
    value: str | None = None


@singledispatch
def convert_transformer(step: Any, graph: Graph, block: Block) -> Block:
    """Compile one fitted transformer."""
    from tidemill.steps.convert.skl2onnx_steps import convert_external_transformer

    return convert_external_transformer(step, graph, block)


@singledispatch
def convert_estimator(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    """Compile one fitted classifier or regressor."""
    from tidemill.steps.convert.skl2onnx_steps import convert_external_estimator

    return convert_external_estimator(step, graph, block)


@singledispatch
def convert_scores(step: Any, graph: Graph, block: Block) -> str:
    """Compile one fitted classifier's `decision_function`: [rows, 1] for two classes, else
    [rows, classes]."""
    from tidemill.steps.convert.skl2onnx_steps import convert_external_scores

    return convert_external_scores(step, graph, block)


def predicted_class(graph: Graph, outcome: EstimatorOutputs) -> str:
    """The index of the predicted class, int64 [rows]."""
    if outcome.label is not None:
        return outcome.label
    assert outcome.probabilities is not None
    return graph.add("ArgMax", outcome.probabilities, axis=1, keepdims=0)


def call_quietly(function: Any, rows: Any) -> Any:
    """What a fitted estimator's method answers to rows made up here.

    Its warnings say that columns have no names or that values are unknown, which is meant so.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(function(rows))

"""One converter for each class of step, found by the step's class.

    @convert_transformer.register(StandardScaler)
    def _scale(step, graph, block): ...        a block of columns to a block of columns

    @convert_estimator.register(LogisticRegression)
    def _logistic(step, graph, block): ...     a block of columns to EstimatorOutputs

    @convert_scores.register(LogisticRegression)
    def _(step, graph, block): ...             a block of columns to the decision function's scores

A class without a converter of its own is converted by skl2onnx (`skl2onnx_steps`, registered for
`object`). A converter raises ExportError for a step that it cannot express. Every converted model
is compared with the original before it is used.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np

from tidemill.errors import ExportError
from tidemill.steps.convert.blocks import Block
from tidemill.steps.convert.graph import Graph


@dataclass(frozen=True)
class EstimatorOutputs:
    """The names of an estimator's results in the graph.

    Attributes:
        probabilities: float [rows, classes], in the order of the estimator's `classes_`.
        label: int64 [rows], index into `classes_`; None when the estimator predicts the class with
            the highest probability.
        value: float64 [rows, 1], of a regressor.
    """

    probabilities: str | None = None
    label: str | None = None
    value: str | None = None


@singledispatch
def convert_transformer(step: Any, graph: Graph, block: Block) -> Block:
    """Add one fitted transformer to the graph."""
    raise _no_converter(step)


@singledispatch
def convert_estimator(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    """Add one fitted classifier or regressor to the graph."""
    raise _no_converter(step)


@singledispatch
def convert_scores(step: Any, graph: Graph, block: Block) -> str:
    """Add a fitted classifier's `decision_function`.

    Returns the name of a float64 matrix: [rows, 1] for two classes, otherwise [rows, classes].
    """
    raise _no_converter(step)


def _no_converter(step: Any) -> ExportError:
    return ExportError(f"There is no converter for {type(step).__name__}.")


def predicted_class(graph: Graph, outputs: EstimatorOutputs) -> str:
    """The index of the predicted class, int64 [rows]."""
    if outputs.label is not None:
        return outputs.label
    assert outputs.probabilities is not None
    return graph.add("ArgMax", outputs.probabilities, axis=1, keepdims=0)


def call_quietly(function: Any, rows: Any) -> Any:
    """Call a fitted estimator's method on made-up rows and return the result as an array.

    Suppresses the warnings about missing column names and unknown categories that such rows cause.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(function(rows))

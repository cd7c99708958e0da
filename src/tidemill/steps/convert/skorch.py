"""PyTorch networks in skorch, exported by PyTorch, including the softmax of the output.

Imported only if skorch has been. Serving the result needs neither skorch nor PyTorch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor

from tidemill.errors import ExportError
from tidemill.steps.convert.blocks import Block, TensorBlock, as_numbers, matrix
from tidemill.steps.convert.dispatch import EstimatorOutputs, convert_estimator
from tidemill.steps.convert.graph import FLOAT, INT64, Graph
from tidemill.steps.convert.torch_export import export_network


class _WithNonlinearity(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """The network, followed by the nonlinearity that skorch applies to get probabilities."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.module = copy.deepcopy(net.module_).cpu().eval()
        self.nonlinearity: Callable[[Any], Any] = net._get_predict_nonlinearity()

    def forward(self, x: Any) -> Any:
        found = self.module(x)
        return self.nonlinearity(found[0] if isinstance(found, tuple) else found)


@convert_estimator.register(NeuralNetClassifier)
def _classifier(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    _check_labels(step)
    return EstimatorOutputs(probabilities=graph.double(_embedded(step, graph, block)))


@convert_estimator.register(NeuralNetBinaryClassifier)
def _binary(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    _check_labels(step)
    found = graph.double(_embedded(step, graph, block))
    above = graph.add("Greater", graph.columns(found, [1]), graph.constant(float(step.threshold)))
    return EstimatorOutputs(probabilities=found, label=graph.reshape(graph.cast(above, INT64), -1))


@convert_estimator.register(NeuralNetRegressor)
def _regressor(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    return EstimatorOutputs(value=graph.reshape(graph.double(_embedded(step, graph, block)), -1, 1))


def _check_labels(step: Any) -> None:
    """Raise unless labels are 0, 1, 2, ...: skorch predicts the index of a class."""
    labels = list(step.classes_)
    if labels != list(range(len(labels))):  # 1.0 and True count as 1
        raise ExportError(
            f"{type(step).__name__} needs labels 0, 1, 2 and so on; these are {labels[:5]}."
        )


def _embedded(step: Any, graph: Graph, block: Block) -> str:
    if isinstance(block, TensorBlock):
        name, shape = block.name, block.shape
    else:
        name, shape = matrix(graph, block), (as_numbers(graph, block).width,)
    model = export_network(_WithNonlinearity(step), shape)
    return graph.embed(model, {model.graph.input[0].name: graph.cast(name, FLOAT)})[0]

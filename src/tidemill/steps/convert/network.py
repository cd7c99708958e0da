"""PyTorch networks in skorch: torch's own exporter, with the output's softmax included.

Imported only where skorch is: serving what comes out needs neither.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import onnx
import torch
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor

from tidemill.errors import ExportError
from tidemill.steps.convert.blocks import Block, Tensor, matrix, numbers
from tidemill.steps.convert.dispatch import Outcome, answer
from tidemill.steps.convert.graph import FLOAT, INT64, OPSET, Graph

ROWS = 2  # of the example that the exporter traces with; one row would be taken for a constant


class _Answering(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """The network, and what skorch applies to its output before it calls it probabilities."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.module = copy.deepcopy(net.module_).cpu().eval()
        self.nonlinearity: Callable[[Any], Any] = net._get_predict_nonlinearity()

    def forward(self, x: Any) -> Any:
        found = self.module(x)
        return self.nonlinearity(found[0] if isinstance(found, tuple) else found)


@answer.register(NeuralNetClassifier)
def _classifier(step: Any, graph: Graph, block: Block) -> Outcome:
    _check_labels(step)
    return Outcome(probabilities=graph.double(_embedded(step, graph, block)))


@answer.register(NeuralNetBinaryClassifier)
def _binary(step: Any, graph: Graph, block: Block) -> Outcome:
    _check_labels(step)
    found = graph.double(_embedded(step, graph, block))
    above = graph.add("Greater", graph.columns(found, [1]), graph.constant(float(step.threshold)))
    return Outcome(probabilities=found, label=graph.reshape(graph.cast(above, INT64), -1))


@answer.register(NeuralNetRegressor)
def _regressor(step: Any, graph: Graph, block: Block) -> Outcome:
    return Outcome(value=graph.reshape(graph.double(_embedded(step, graph, block)), -1, 1))


def _check_labels(step: Any) -> None:
    """skorch answers with the position of a class, whatever the class is called."""
    labels = list(step.classes_)
    if labels != list(range(len(labels))):  # 1.0 and True count as 1
        raise ExportError(
            f"{type(step).__name__} learns labels 0, 1, 2 and so on; these are {labels[:5]}."
        )


def _embedded(step: Any, graph: Graph, block: Block) -> str:
    if isinstance(block, Tensor):
        name, shape = block.name, block.shape
    else:
        name, shape = matrix(graph, block), (numbers(graph, block).width,)
    model = exported(_Answering(step), shape)
    return graph.embed(model, {model.graph.input[0].name: graph.cast(name, FLOAT)})[0]


def exported(network: Any, shape: tuple[int, ...]) -> onnx.ModelProto:
    """A network of one input [rows, *shape] as ONNX, for any number of rows.

    Raises:
        ExportError: Neither of torch's exporters can.
    """
    reasons = []
    # Tracing first: it takes half a second, the other ten. Where it goes wrong on a network that
    # decides by its data, the comparison with the model shows it.
    for export in (_by_trace, _by_graph):
        try:
            with _quiet(), torch.no_grad():
                return export(network, torch.zeros(ROWS, *shape))
        except Exception as error:  # an exporter may fail in any way
            reasons.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}")
    raise ExportError(f"torch cannot export the network: {'; '.join(reasons)}")


def _by_graph(network: Any, given: Any) -> onnx.ModelProto:
    rows = torch.export.Dim("rows")
    program = torch.onnx.export(
        network, (given,), dynamo=True, dynamic_shapes=({0: rows},), opset_version=OPSET,
        verbose=False,
    )  # fmt: skip
    model: onnx.ModelProto = program.model_proto
    return model


def _by_trace(network: Any, given: Any) -> onnx.ModelProto:
    file = io.BytesIO()
    torch.onnx.export(
        network, (given,), file, dynamo=False, input_names=["x"], output_names=["y"],
        dynamic_axes={"x": {0: "rows"}, "y": {0: "rows"}}, opset_version=18,
    )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn, log and print about themselves."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

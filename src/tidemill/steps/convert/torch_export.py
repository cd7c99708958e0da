"""Export of PyTorch networks to ONNX by PyTorch's exporters. Imported only if PyTorch has been."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import torch

from tidemill.errors import ExportError
from tidemill.steps.convert.graph import OPSET

# Rows of the traced example; one row would be taken for a constant.
TRACED_ROWS = 2


def export_network(network: Any, shape: tuple[int, ...]) -> onnx.ModelProto:
    """Export a network with one input [rows, *shape] to ONNX, for any number of rows.

    Raises:
        ExportError: Both of PyTorch's exporters fail.
    """
    reasons = []
    # Tracing first: it takes half a second, the other exporter ten. If it is wrong for a network
    # with data-dependent control flow, the parity check detects it.
    for export in (_by_trace, _by_graph):
        try:
            with _silenced(), torch.no_grad():
                return export(network, torch.zeros(TRACED_ROWS, *shape))
        except Exception as error:  # an exporter may raise anything
            reasons.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}")
    raise ExportError(f"PyTorch cannot export the network: {'; '.join(reasons)}")


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
def _silenced() -> Iterator[None]:
    """Suppress what the exporters warn, log and print."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

"""PyTorch networks to ONNX by torch's own exporters. Imported only where torch is."""

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
                return export(network, torch.zeros(TRACED_ROWS, *shape))
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

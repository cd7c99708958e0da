"""Adapts external ONNX models to a bundle's inputs and outputs, and compares before and after."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from tidemill.bundle import Parity
from tidemill.errors import BundleError, DeadlineError, ExportError
from tidemill.loop.sync.model_signature import make_signature
from tidemill.serving.model.onnx_runtime import run_limited
from tidemill.serving.sandbox import sandbox
from tidemill.serving.sandbox.sandbox import SandboxLimits
from tidemill.signature import Label, Signature
from tidemill.steps.export import parity
from tidemill.steps.export.compile import Compiled, load_compiled
from tidemill.steps.export.external_onnx import AdaptedGraph, adapt_onnx
from tidemill.steps.export.external_samples import sample_rows
from tidemill.steps.export.external_signature import Inputs, labels_from_output
from tidemill.steps.export.model_io import (
    InputRows,
    ModelPredictions,
    input_arrays,
    predict_in_batches,
)

RUN_SECONDS = 30.0


def compile_onnx(
    path: Path, inputs: Inputs | None, tagged: tuple[Label, ...], target: str, example: Any
) -> tuple[Compiled, Signature, InputRows]:
    """The adapted model, its signature, and the rows that it was compared on.

    Args:
        path: The ONNX file; data in external files is included.
        inputs: The inputs in its MLflow signature, if it has one.
        tagged: The labels in the version's tag.

    Raises:
        ExportError: A bundle does not support the model's inputs or outputs, the adapted model
            predicts something else than the original, or loading or running it is harmful.
    """
    try:
        return _compile(path, inputs, tagged, target, example)
    except DeadlineError as error:
        raise ExportError(f"The ONNX model is refused: {error.detail}") from error


def _compile(
    path: Path, inputs: Inputs | None, tagged: tuple[Label, ...], target: str, example: Any
) -> tuple[Compiled, Signature, InputRows]:
    try:
        original = onnx.load(str(path))
        content = original.SerializeToString()
    except Exception as error:  # protobuf's own errors, and files that are missing
        raise ExportError(f"{path.name} is not an ONNX model: {error}") from error
    _test_apart(content)
    fitted = adapt_onnx(original, inputs, tagged)
    draft = make_signature(fitted.inputs, fitted.labels, target)
    rows = sample_rows(draft, example)
    raw = _Original(content, fitted)
    labels = fitted.labels or (
        labels_from_output(raw.wide(rows), ()) if fitted.ambiguous_output else ()
    )
    signature = make_signature(fitted.inputs, labels, target)
    compiled = Compiled(
        "onnx", fitted.model.SerializeToString(), fitted.model_inputs, fitted.outputs,
        Parity(0, True, 0.0),
    )  # fmt: skip
    runtime = load_compiled(compiled, signature, RUN_SECONDS)
    found = predict_in_batches(runtime, compiled.inputs, signature, rows)
    differences = parity.compare_predictions(raw.answers(rows, signature), found)
    if not parity.within_tolerance(differences):
        raise ExportError("The ONNX model predicts something else in a bundle than on its own.")
    return replace(compiled, parity=differences), signature, rows


def _test_apart(content: bytes) -> None:
    """Refuse a model that hangs, crashes or takes all memory, before this process loads it.

    Raises:
        ExportError: It does.
    """
    with tempfile.TemporaryDirectory(prefix="tidemill-onnx-") as folder:
        file = Path(folder, "model.onnx")
        file.write_bytes(content)
        try:
            sandbox.run(file, limits=SandboxLimits(run=RUN_SECONDS))
        except BundleError as error:
            raise ExportError(f"The ONNX model is refused: {error.detail}") from error


class _Original:
    """The original model, run on the same rows."""

    def __init__(self, content: bytes, fitted: AdaptedGraph) -> None:
        self._fitted = fitted
        try:
            self._session = onnxruntime.InferenceSession(
                content, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own exceptions share no public base
            raise ExportError(f"ONNX Runtime cannot load the model: {error}") from error

    def wide(self, rows: InputRows) -> Any:
        """The output whose meaning depends on its values."""
        return self._run(rows)[self._fitted.ambiguous_output or ""]

    def answers(self, rows: InputRows, signature: Signature) -> ModelPredictions:
        """The predictions, in terms of the signature."""
        found = self._run(rows)
        texts = [v for v in found.values() if getattr(v, "dtype", np.dtype(float)).kind in "OUSi"]
        floats = [v for v in found.values() if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
        if not signature.labels:
            return ModelPredictions(floats[0].reshape(-1).astype(np.float64))
        listed = list(signature.labels)
        if isinstance(maps := _dictionaries(found), list):
            floats = [np.array([[row[label] for label in listed] for row in maps])]
        wide = [v for v in floats if v.ndim == 2 and v.shape[1] == len(listed)]
        probabilities = wide[0].astype(np.float64) if wide else None
        if texts:
            labels = np.array([listed.index(v) for v in texts[0].reshape(-1).tolist()], np.int64)
        else:
            labels = wide[0].argmax(axis=1)
        return ModelPredictions(np.array(listed)[labels], labels, probabilities)

    def _run(self, rows: InputRows) -> dict[str, Any]:
        feeds = {}
        arrays = input_arrays(rows, self._fitted.model_inputs)
        declared_inputs = {entry.name: entry for entry in self._session.get_inputs()}
        for entry, array in zip(self._fitted.model_inputs, arrays, strict=True):
            declared = declared_inputs[entry.name]
            flat = array.reshape(-1) if len(declared.shape) == 1 else array
            feeds[entry.name] = flat.astype(_DTYPES.get(declared.type, flat.dtype))
        try:
            found = run_limited(self._session.run, None, feeds, seconds=RUN_SECONDS)
        except DeadlineError:
            raise
        except Exception as error:  # a kernel may fail in any way
            raise ExportError(f"The ONNX model fails on rows that fit it: {error}") from error
        return dict(zip([o.name for o in self._session.get_outputs()], found, strict=True))


_DTYPES = {
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


def _dictionaries(found: dict[str, Any]) -> list[dict[Any, float]] | None:
    for value in found.values():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return value
    return None

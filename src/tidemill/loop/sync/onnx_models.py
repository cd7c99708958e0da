"""ONNX models of other makers: read, put into a bundle's terms, and compared with themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from tidemill.bundle import Parity
from tidemill.errors import ExportError
from tidemill.signature import Label, Signature, Tensor
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


def compile_onnx(
    path: Path, inputs: Inputs | None, tagged: tuple[Label, ...], target: str, example: Any
) -> tuple[Compiled, Signature, InputRows]:
    """The model as a bundle holds it, its signature, and the rows that it was compared on.

    Args:
        path: The ONNX file; data that it keeps beside itself is taken in.
        inputs: What its MLflow signature says, if it has one.
        tagged: The labels that the version's tag names.

    Raises:
        ExportError: It takes or answers what no bundle does, or answers otherwise than before.
    """
    try:
        original = onnx.load(str(path))
        content = original.SerializeToString()
    except Exception as error:  # protobuf's own errors, and files that are missing
        raise ExportError(f"{path.name} is no ONNX model: {error}") from error
    fitted = adapt_onnx(original, inputs, tagged)
    draft = _signature(fitted, fitted.labels, target)
    rows = sample_rows(draft, example)
    raw = _Original(content, fitted)
    labels = fitted.labels or (
        labels_from_output(raw.wide(rows), ()) if fitted.ambiguous_output else ()
    )
    signature = _signature(fitted, labels, target)
    compiled = Compiled(
        "onnx", fitted.model.SerializeToString(), fitted.model_inputs, fitted.outputs,
        Parity(0, True, 0.0),
    )  # fmt: skip
    runtime = load_compiled(compiled, signature)
    found = predict_in_batches(runtime, compiled.inputs, signature, rows)
    differences = parity.compare_predictions(raw.answers(rows, signature), found)
    if not parity.within_tolerance(differences):
        raise ExportError("The ONNX model does not answer in a bundle as it did by itself.")
    return replace(compiled, parity=differences), signature, rows


def _signature(fitted: AdaptedGraph, labels: tuple[Label, ...], target: str) -> Signature:
    task: Any = "classification" if labels else "regression"
    if isinstance(fitted.inputs, Tensor):
        return Signature(task, target, tensor=fitted.inputs, labels=labels)
    return Signature(task, target, fitted.inputs, labels=labels)


class _Original:
    """The model as it came, fed from the same rows."""

    def __init__(self, content: bytes, fitted: AdaptedGraph) -> None:
        self._fitted = fitted
        try:
            self._session = onnxruntime.InferenceSession(
                content, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own exceptions share no public base
            raise ExportError(f"ONNX Runtime does not take the model: {error}") from error

    def wide(self, rows: InputRows) -> Any:
        """The one output of which its values tell what it is."""
        return self._run(rows)[self._fitted.ambiguous_output or ""]

    def answers(self, rows: InputRows, signature: Signature) -> ModelPredictions:
        """What it answers, in the terms of the signature."""
        found = self._run(rows)
        texts = [v for v in found.values() if getattr(v, "dtype", np.dtype(float)).kind in "OUSi"]
        floats = [v for v in found.values() if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
        if not signature.labels:
            return ModelPredictions(floats[0].reshape(-1).astype(np.float64))
        listed = list(signature.labels)
        if isinstance(likely := _dictionaries(found), list):
            floats = [np.array([[row[label] for label in listed] for row in likely])]
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
        wanted = {entry.name: entry for entry in self._session.get_inputs()}
        for entry, array in zip(self._fitted.model_inputs, arrays, strict=True):
            declared = wanted[entry.name]
            flat = array.reshape(-1) if len(declared.shape) == 1 else array
            feeds[entry.name] = flat.astype(_DTYPES.get(declared.type, flat.dtype))
        try:
            found = self._session.run(None, feeds)
        except Exception as error:  # whatever a kernel does not like
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

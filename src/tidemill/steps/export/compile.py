"""Compilation of a fitted model to the fastest form with the same predictions.

ONNX comes first; steps that skl2onnx converts are tried in double precision, then in single. If no
compiled form agrees with the model within the tolerance of `parity`, scikit-learn itself serves the
model from a skops file. If that fails too, the model is refused.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any, Literal

from tidemill.bundle import FORMAT, Manifest, ModelInput, ModelOutputs, Parity
from tidemill.errors import ExportError, TidemillError
from tidemill.serving.model.onnx_runtime import OnnxRuntime
from tidemill.serving.model.runtime import Runtime
from tidemill.serving.model.sklearn_runtime import NativeRuntime, rebuild
from tidemill.signature import Signature
from tidemill.steps.convert.model import Converted, convert, signature_block
from tidemill.steps.export import parity
from tidemill.steps.export.array_input import to_array_input
from tidemill.steps.export.model_io import InputRows, ModelPredictions, predict_in_batches
from tidemill.steps.export.parity import ParityCase

logger = logging.getLogger(__name__)

RUN_SECONDS = 600.0  # for a run over many rows


@dataclass(frozen=True)
class Compiled:
    """A model in the form that is served.

    Attributes:
        content: The contents of model.onnx or model.skops; empty for a model in its own process.
        parity: Its agreement with the original model.
        reason: Why it is not ONNX; None if it is.
        trusted_types: Types that skops must be told to trust.
    """

    runtime: Literal["onnx", "skops", "pyfunc"]
    content: bytes
    inputs: tuple[ModelInput, ...]
    outputs: ModelOutputs
    parity: Parity
    reason: str | None = None
    trusted_types: tuple[str, ...] = ()


def compile_model(model: Any, signature: Signature, X_sample: InputRows) -> Compiled:
    """Compile a fitted model to the fastest form with the same predictions.

    Args:
        model: A fitted estimator or pipeline that takes the signature's columns.
        X_sample: Rows to compare on; preferably rows that the model was not fitted on.

    Raises:
        ExportError: There is no such form; the message says why ONNX and the fallback failed.
    """
    cases = parity.parity_cases(model, X_sample, signature)
    reasons = []
    for single in (False, True):
        found, reason, more = _try_onnx(model, signature, cases, single=single)
        if found is not None:
            return found
        reasons.append(reason)
        if not more:
            break
    why = " ".join(dict.fromkeys(reasons))
    logger.warning("The model cannot be served as ONNX, trying the native fallback: %s", why)
    try:
        return replace(_native(model, signature, cases), reason=why)
    except TidemillError as error:
        raise ExportError(
            f"The model cannot be served. ONNX: {why} Native fallback: {error.detail}",
            remedy="Use another estimator or preprocessing; docs/estimators.md lists what works.",
        ) from error


def load_compiled(
    compiled: Compiled, signature: Signature, seconds: float = RUN_SECONDS
) -> Runtime:
    """Load a compiled model as serving would; `seconds` limits a run of an ONNX model."""
    if compiled.runtime == "skops":
        return NativeRuntime(rebuild(compiled.content), compiled.inputs, signature)
    return OnnxRuntime(compiled.content, _manifest(compiled), signature, seconds)


def _try_onnx(
    model: Any, signature: Signature, cases: list[ParityCase], *, single: bool
) -> tuple[Compiled | None, str, bool]:
    """The model in ONNX, or the reason why not and whether single precision may succeed."""
    try:
        converted = convert(model, signature, single=single)
    except ExportError as error:
        return None, error.detail, not single
    try:
        compiled = _compile_onnx(signature, cases, converted)
    except TidemillError as error:
        return None, error.detail, bool(converted.external_steps)
    if parity.within_tolerance(compiled.parity):
        return compiled, "", False
    where = "ONNX in single precision" if single else "ONNX"
    return None, _difference(compiled.parity, where), bool(converted.external_steps)


def _compile_onnx(signature: Signature, cases: list[ParityCase], converted: Converted) -> Compiled:
    compiled = Compiled(
        runtime="onnx",
        content=_serialize(converted),
        inputs=converted.inputs,
        outputs=converted.outputs,
        parity=Parity(0, True, 0.0),
    )
    return _with_parity(signature, cases, compiled)


def _serialize(converted: Converted) -> bytes:
    try:
        content: bytes = converted.model.SerializeToString()
    except Exception as error:  # protobuf has no specific exception for its limit of 2 GB
        raise ExportError(f"The compiled model cannot be written: {error}") from error
    return content


def _native(model: Any, signature: Signature, cases: list[ParityCase]) -> Compiled:
    """The model for serving by scikit-learn, from a skops file."""
    content, trusted = _skops(to_array_input(model, signature))
    inputs = signature_block(signature)[1]
    has_probabilities = signature.task == "classification" and hasattr(model, "predict_proba")
    outputs = ModelOutputs(
        label="label" if signature.labels else None,
        probabilities="probabilities" if has_probabilities else None,
        value=None if signature.labels else "value",
    )
    compiled = Compiled("skops", content, inputs, outputs, Parity(0, True, 0.0), None, trusted)
    compiled = _with_parity(signature, cases, compiled)
    if not parity.within_tolerance(compiled.parity):
        raise ExportError(_difference(compiled.parity, "The rebuilt model"))
    return compiled


def _with_parity(signature: Signature, cases: list[ParityCase], compiled: Compiled) -> Compiled:
    """Measure the agreement of the compiled model with the original."""
    runtime = load_compiled(compiled, signature)

    def predict(rows: InputRows) -> ModelPredictions:
        try:
            return predict_in_batches(runtime, compiled.inputs, signature, rows)
        except Exception as error:  # the runtimes' exceptions have no common base
            raise ExportError(f"The compiled model fails: {_first_line(error)}") from error

    return replace(compiled, parity=parity.measure_parity(cases, predict))


def _skops(model: Any) -> tuple[bytes, tuple[str, ...]]:
    """The model as a skops file, and the types in it that skops does not trust by default."""
    from skops import io

    try:
        content: bytes = io.dumps(model)
        untrusted = tuple(sorted(str(name) for name in io.get_untrusted_types(data=content)))
    except Exception as error:  # skops cannot write every object
        raise ExportError(f"skops cannot write the model: {_first_line(error)}") from error
    return content, untrusted


def _difference(found: Parity, where: str) -> str:
    labels = "" if found.labels_equal else "different labels, "
    return (
        f"{where} differs from the model on {found.rows} rows: {labels}"
        f"largest relative error {found.max_relative_error:.1e} "
        f"({parity.TOLERANCE:.0e} is allowed)."
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
    return f"{type(error).__name__}: {text.rstrip('.')}."


def _manifest(compiled: Compiled) -> Manifest:
    """A manifest with what is needed to load the model."""
    return Manifest(FORMAT, "", "", compiled.runtime, {}, compiled.inputs, compiled.outputs)

"""A fitted model to the fastest form that answers as it does.

ONNX first. Steps that others convert are tried in double precision, then in single. What no
compiled form answers for within the tolerance of `tidemill.steps.export.parity` is served by
scikit-learn
itself, out of a skops file; what cannot be served that way either is refused.
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


@dataclass(frozen=True)
class Compiled:
    """A model in the form that is served.

    Attributes:
        content: The bytes of model.onnx or model.skops; empty for a model in its own process.
        parity: On the rows that it was checked with.
        reason: Why it is not ONNX, where it is not.
    """

    runtime: Literal["onnx", "skops", "pyfunc"]
    content: bytes
    inputs: tuple[ModelInput, ...]
    outputs: ModelOutputs
    parity: Parity
    reason: str | None = None
    trusted_types: tuple[str, ...] = ()


def compile_model(model: Any, signature: Signature, X_sample: InputRows) -> Compiled:
    """The fastest form of a fitted model that answers as the model does.

    Args:
        model: A fitted estimator or pipeline that takes the signature's columns.
        X_sample: Rows to compare on, best ones that the model was not fitted on.

    Raises:
        ExportError: There is none; the message says why ONNX and the fallback were refused.
    """
    trials = parity.parity_cases(model, X_sample, signature)
    reasons = []
    for single in (False, True):
        found, reason, more = _compiled(model, signature, trials, single=single)
        if found is not None:
            return found
        reasons.append(reason)
        if not more:
            break
    why = " ".join(dict.fromkeys(reasons))
    logger.warning("Not in ONNX; trying the native fallback. %s", why)
    try:
        return replace(_native(model, signature, trials), reason=why)
    except TidemillError as error:
        raise ExportError(
            f"The model cannot be served. ONNX: {why} Native fallback: {error.detail}",
            remedy="Use another estimator or preprocessing; docs/estimators.md lists what works.",
        ) from error


def load_compiled(compiled: Compiled, signature: Signature) -> Runtime:
    """The compiled model as a serving machine would load it."""
    if compiled.runtime == "skops":
        return NativeRuntime(rebuild(compiled.content), compiled.inputs, signature)
    return OnnxRuntime(compiled.content, _manifest(compiled), signature)


def _compiled(
    model: Any, signature: Signature, trials: list[ParityCase], *, single: bool
) -> tuple[Compiled | None, str, bool]:
    """The model in ONNX, or why not, and whether another precision may do better."""
    try:
        converted = convert(model, signature, single=single)
    except ExportError as error:
        return None, error.detail, not single
    try:
        compiled = _checked(signature, trials, converted)
    except TidemillError as error:
        return None, error.detail, bool(converted.external_steps)
    if parity.within_tolerance(compiled.parity):
        return compiled, "", False
    where = "ONNX in single precision" if single else "ONNX"
    return None, _complaint(compiled.parity, where), bool(converted.external_steps)


def _checked(signature: Signature, trials: list[ParityCase], converted: Converted) -> Compiled:
    compiled = Compiled(
        runtime="onnx",
        content=_serialised(converted),
        inputs=converted.inputs,
        outputs=converted.outputs,
        parity=Parity(0, True, 0.0),
    )
    return _compared(signature, trials, compiled)


def _serialised(converted: Converted) -> bytes:
    try:
        content: bytes = converted.model.SerializeToString()
    except Exception as error:  # protobuf's limit of two gigabytes has no exception of its own
        raise ExportError(f"The compiled model cannot be written: {error}") from error
    return content


def _native(model: Any, signature: Signature, trials: list[ParityCase]) -> Compiled:
    """The model for the server's scikit-learn, rebuilt by the server's own code."""
    content, asked = _skops(to_array_input(model, signature))
    inputs = signature_block(signature)[1]
    likely = signature.task == "classification" and hasattr(model, "predict_proba")
    outputs = ModelOutputs(
        label="label" if signature.labels else None,
        probabilities="probabilities" if likely else None,
        value=None if signature.labels else "value",
    )
    compiled = Compiled("skops", content, inputs, outputs, Parity(0, True, 0.0), None, asked)
    compiled = _compared(signature, trials, compiled)
    if not parity.within_tolerance(compiled.parity):
        raise ExportError(_complaint(compiled.parity, "The rebuilt model"))
    return compiled


def _compared(signature: Signature, trials: list[ParityCase], compiled: Compiled) -> Compiled:
    """The compiled model with how close it comes to the native one."""
    runtime = load_compiled(compiled, signature)

    def answer(rows: InputRows) -> ModelPredictions:
        try:
            return predict_in_batches(runtime, compiled.inputs, signature, rows)
        except Exception as error:  # the runtimes' own exceptions share no public base
            raise ExportError(f"The compiled model fails: {_first_line(error)}") from error

    return replace(compiled, parity=parity.measure_parity(trials, answer))


def _skops(model: Any) -> tuple[bytes, tuple[str, ...]]:
    """A model as a skops file, and the types in it that skops does not trust by itself."""
    from skops import io

    try:
        content: bytes = io.dumps(model)
        asked = tuple(sorted(str(name) for name in io.get_untrusted_types(data=content)))
    except Exception as error:  # skops cannot write every object there is
        raise ExportError(f"skops cannot write the model: {_first_line(error)}") from error
    return content, asked


def _complaint(found: Parity, where: str) -> str:
    labels = "" if found.labels_equal else "other labels, "
    return (
        f"{where} differs from the model on {found.rows} rows: {labels}"
        f"largest relative error {found.max_relative_error:.1e} "
        f"({parity.TOLERANCE:.0e} is allowed)."
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
    return f"{type(error).__name__}: {text.rstrip('.')}."


def _manifest(compiled: Compiled) -> Manifest:
    """Enough of a manifest to load the model with."""
    return Manifest(FORMAT, "", "", compiled.runtime, {}, compiled.inputs, compiled.outputs)

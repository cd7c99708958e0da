"""Runs a model in ONNX Runtime.

See decision 023.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

from tidemill.bundle import Manifest, ModelInput
from tidemill.errors import BundleError, DeadlineError
from tidemill.serving.codec.outputs import Array, RawOutputs
from tidemill.serving.model.run_limits import RUNNING, may_loop
from tidemill.signature import Signature

FIRST_RUN_SECONDS = 5.0  # for a graph with loops, on the few rows of its example
LARGE = 4 * 2**20  # size of a model file in bytes
INPUT_TYPES = {
    "float32": "tensor(float)",
    "float64": "tensor(double)",
    "int64": "tensor(int64)",
    "bool": "tensor(bool)",
    "string": "tensor(string)",
}
OUTPUT_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
}


class OnnxRuntime:
    """A model in ONNX Runtime.

    Args:
        model: The bytes of the ONNX file.
        manifest: Names its inputs and outputs.
        seconds: Time limit for a run.

    Attributes:
        waits: Whether a run may take any time, so that it must not run on the event loop.

    Raises:
        BundleError: ONNX Runtime rejects the model, or it does not match the manifest.
    """

    def __init__(
        self, model: bytes, manifest: Manifest, signature: Signature, seconds: float = 30.0
    ) -> None:
        self.waits = may_loop(model)
        self._seconds = min(seconds, FIRST_RUN_SECONDS) if self.waits else seconds
        self._later_seconds = seconds
        self._session = start_session(model)
        outputs = manifest.outputs
        _check_inputs(self._session, manifest.inputs, signature)
        _check_outputs(self._session, (outputs.label, outputs.probabilities, outputs.value))
        self._inputs = [entry.name for entry in manifest.inputs]
        self._outputs = [n for n in (outputs.label, outputs.probabilities, outputs.value) if n]
        self._has_label = outputs.label is not None
        self._has_probabilities = outputs.probabilities is not None
        self._single_row = None
        if not self.waits:
            self._single_row = _single_row(self._session, manifest, signature)

    def run(self, inputs: list[Array]) -> RawOutputs:
        row = self._single_row
        if row is not None and len(inputs[0]) == 1 and row.lock.acquire(blocking=False):
            try:
                found = row.run(inputs[0], self._seconds)
            finally:
                row.lock.release()
        else:
            feeds = dict(zip(self._inputs, inputs, strict=True))
            found = run_limited(self._session.run, self._outputs, feeds, seconds=self._seconds)
        self._seconds = self._later_seconds
        return self._as_output(found)

    def _as_output(self, found: list[Array]) -> RawOutputs:
        if not self._has_probabilities:
            flat = found[0].reshape(-1)
            return (flat, None, None) if self._has_label else (None, None, flat)
        if self._has_label:
            return found[0].reshape(-1), found[1], None
        return None, found[0], None


def run_limited(run: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
    """`run(*arguments)` of a session, ended after so many seconds.

    Raises:
        DeadlineError: It was ended.
    """
    options = onnxruntime.RunOptions()  # new for each run, so that no other run is ended
    # The default. Where it is not set, ONNX Runtime 1.32 catches an exception, ten times as slow
    # as a small model.
    options.add_run_config_entry("gpu_graph_id", "0")
    RUNNING.add(options, seconds)
    try:
        return run(*arguments, options)
    except Exception as error:
        if options.terminate:
            raise DeadlineError(
                f"The model did not finish within {seconds:g} s.",
                remedy="Serve a version whose runs end.",
            ) from error
        raise
    finally:
        RUNNING.now.pop(options, None)


class _SingleRow:
    """Runs a single row in buffers that are bound once, so that a call allocates no tensors.

    This saves about a quarter of a small model's time. One caller at a time may use the buffers.
    """

    def __init__(self, session: Any, feed: tuple[str, Array], fetch: list[tuple[str, Array]]):
        self.lock = threading.Lock()
        name, self._input = feed
        self._results = [array for _, array in fetch]
        self._binding = session.io_binding()
        self._binding.bind_input(name, *_binding(self._input))
        for name, array in fetch:
            self._binding.bind_output(name, *_binding(array))
        self._run = session.run_with_iobinding

    def run(self, given: Array, seconds: float) -> list[Array]:
        self._input[:] = given
        run_limited(self._run, self._binding, seconds=seconds)
        return [array.copy() for array in self._results]


def _single_row(session: Any, manifest: Manifest, signature: Signature) -> _SingleRow | None:
    """Buffers for a single row, if the model takes one numeric input; else None."""
    entry = manifest.inputs[0]
    if len(manifest.inputs) > 1 or entry.dtype in ("string", "bool"):
        return None
    shape = signature.tensor.shape if signature.tensor else (len(entry.columns),)
    named = manifest.outputs
    names = [name for name in (named.label, named.probabilities, named.value) if name]
    kinds = {output.name: output for output in session.get_outputs()}
    fetch = []
    for name in names:
        size = (1, len(signature.labels)) if name == named.probabilities else (1,)
        if name == named.value and len(kinds[name].shape) == 2:
            size = (1, 1)
        fetch.append((name, np.zeros(size, OUTPUT_DTYPES[kinds[name].type])))
    return _SingleRow(session, (entry.name, np.zeros((1, *shape), entry.dtype)), fetch)


def _binding(array: Array) -> tuple[str, int, Any, tuple[int, ...], int]:
    """The arguments by which ONNX Runtime binds an array."""
    return "cpu", 0, array.dtype.type, array.shape, array.ctypes.data


def start_session(model: bytes) -> Any:
    """A session with one thread: parallel requests and processes already use all cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # errors are raised, so they need not be printed too
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no public base
        raise BundleError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load the bundle's model: {error}",
            remedy="Install the onnxruntime version in the bundle's manifest, or a newer one.",
        ) from error
    if len(model) > LARGE:
        _release_memory()
    return session


def _release_memory() -> None:
    """Return the memory that loading freed to the system: for a large forest, more than half."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def _check_inputs(session: Any, inputs: tuple[ModelInput, ...], signature: Signature) -> None:
    given = {entry.name: entry for entry in session.get_inputs()}
    if given.keys() != {entry.name for entry in inputs}:
        raise BundleError(
            f"The bundle's model has the inputs {sorted(given)}, but its manifest lists "
            f"{sorted(entry.name for entry in inputs)}."
        )
    for entry in inputs:
        found = given[entry.name]
        fixed = [size for size in found.shape[1:] if isinstance(size, int)]
        width = signature.tensor.size if signature.tensor else len(entry.columns)
        whole = len(fixed) == len(found.shape) - 1
        if found.type != INPUT_TYPES[entry.dtype] or (whole and math.prod(fixed) != width):
            raise BundleError(
                f"The bundle's model takes '{entry.name}' as {found.type} {found.shape}, but its "
                f"manifest declares {entry.dtype} of width {width}."
            )


def _check_outputs(session: Any, names: tuple[str | None, ...]) -> None:
    given = {entry.name for entry in session.get_outputs()}
    declared = {name for name in names if name}
    if not declared or not declared <= given:
        raise BundleError(
            f"The bundle's model has the outputs {sorted(given)}, but its manifest lists "
            f"{sorted(declared)}."
        )

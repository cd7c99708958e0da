"""A bundle's compiled model in memory, ready to run.

    runtime = load_runtime(bundle)
    labels, probabilities, values = runtime.run(arrays)   # arrays as the manifest's inputs say

ONNX Runtime does the work. A bundle of the native fallback goes to
`tidemill.serving.model.sklearn_runtime`, which
is loaded only then, because it needs scikit-learn.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime

from tidemill.bundle import Bundle, Manifest, ModelInput
from tidemill.errors import BundleError
from tidemill.serving.model.remote_runtime import RemoteRuntime, WorkerConnection, socket_path
from tidemill.signature import Signature

Array = np.ndarray[Any, Any]
Answers = tuple[Array | None, Array | None, Array | None]

LARGE = 4 * 2**20  # bytes of a model

ELEMENTS = {
    "float32": "tensor(float)",
    "float64": "tensor(double)",
    "int64": "tensor(int64)",
    "bool": "tensor(bool)",
    "string": "tensor(string)",
}
DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
}


class Runtime(Protocol):
    """A compiled model in memory; `run` may be called by several threads at once."""

    def run(self, inputs: list[Array]) -> Answers:
        """Label indices int64 [rows], probabilities [rows, labels] and values [rows].

        A classifier without a label output gives None for the labels: they are the probabilities'
        argmax, the first of equal ones. A regressor gives values alone.

        Args:
            inputs: One array for every input of the manifest, in its order, each [rows, ...].
        """
        ...


def load_runtime(
    bundle: Bundle,
    *,
    trusted: Iterable[str] = (),
    home: Path | None = None,
    seconds: float = 30.0,
) -> Runtime:
    """Load the bundle's model.

    Args:
        trusted: Types that this server's operator trusts a native fallback with, besides the list
            in `tidemill.serving.model.sklearn_runtime`.
        home: Where the workers of models that run in their own process are found; None for none.
        seconds: How long such a worker may take for an answer.

    Raises:
        BundleError: The model cannot be loaded, is not what the manifest says, needs a package that
            is not installed, or asks for a type that is not trusted.
    """
    if bundle.manifest.runtime == "skops":
        native = importlib.import_module("tidemill.serving.model.sklearn_runtime")
        runtime: Runtime = native.load_native(bundle, trusted=trusted)
        return runtime
    if bundle.manifest.runtime == "pyfunc":
        return _remote(bundle, home, seconds)
    return OnnxRuntime(bundle.model_path.read_bytes(), bundle.manifest, bundle.signature)


def _remote(bundle: Bundle, home: Path | None, seconds: float) -> Runtime:
    if home is None:
        raise BundleError(
            "This bundle's model runs in a process of its own, which only a server has.",
            remedy="Ask a server: tidemill serve NAME --trust",
        )
    link = WorkerConnection(socket_path(home, bundle.digest), seconds)
    return RemoteRuntime(link, bundle.signature)


class OnnxRuntime:
    """A model in ONNX Runtime.

    Args:
        model: The bytes of the ONNX file.
        manifest: Names its inputs and outputs.

    Raises:
        BundleError: ONNX Runtime does not take the model, or it is not what the manifest says.
    """

    def __init__(self, model: bytes, manifest: Manifest, signature: Signature) -> None:
        self._session = _session(model)
        self._options = onnxruntime.RunOptions()  # one for all calls is cheaper than none
        outputs = manifest.outputs
        _check_inputs(self._session, manifest.inputs, signature)
        _check_outputs(self._session, (outputs.label, outputs.probabilities, outputs.value))
        self._inputs = [entry.name for entry in manifest.inputs]
        self._outputs = [n for n in (outputs.label, outputs.probabilities, outputs.value) if n]
        self._has_label = outputs.label is not None
        self._has_probabilities = outputs.probabilities is not None
        self._row = _row(self._session, manifest, signature)

    def run(self, inputs: list[Array]) -> Answers:
        row = self._row
        if row is not None and len(inputs[0]) == 1 and row.lock.acquire(blocking=False):
            try:
                return self._answers(row.run(inputs[0]))
            finally:
                row.lock.release()
        feeds = dict(zip(self._inputs, inputs, strict=True))
        return self._answers(self._session.run(self._outputs, feeds, self._options))

    def _answers(self, found: list[Array]) -> Answers:
        if not self._has_probabilities:
            flat = found[0].reshape(-1)
            return (flat, None, None) if self._has_label else (None, None, flat)
        if self._has_label:
            return found[0].reshape(-1), found[1], None
        return None, found[0], None


class _Row:
    """A single row's way: buffers bound once, so that a call allocates no tensors.

    It saves about a quarter of a small model's time. The buffers are one caller's at a time.
    """

    def __init__(self, session: Any, feed: tuple[str, Array], fetch: list[tuple[str, Array]]):
        self.lock = threading.Lock()
        name, self._given = feed
        self._found = [array for _, array in fetch]
        self._binding = session.io_binding()
        self._binding.bind_input(name, *_place(self._given))
        for name, array in fetch:
            self._binding.bind_output(name, *_place(array))
        self._run = session.run_with_iobinding

    def run(self, given: Array) -> list[Array]:
        self._given[:] = given
        self._run(self._binding)
        return [array.copy() for array in self._found]


def _row(session: Any, manifest: Manifest, signature: Signature) -> _Row | None:
    """Buffers for a single row, where the model takes one numeric input."""
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
        fetch.append((name, np.zeros(size, DTYPES[kinds[name].type])))
    return _Row(session, (entry.name, np.zeros((1, *shape), entry.dtype)), fetch)


def _place(array: Array) -> tuple[str, int, Any, tuple[int, ...], int]:
    """Where an array lies, as ONNX Runtime's binding wants it told."""
    return "cpu", 0, array.dtype.type, array.shape, array.ctypes.data


def _session(model: bytes) -> Any:
    """One thread and a small footprint: parallel requests and processes share the cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what goes wrong is raised; it need not be printed too
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no public base
        raise BundleError(
            f"ONNX Runtime {onnxruntime.__version__} does not take the bundle's model: {error}",
            remedy="Install the onnxruntime that the manifest's versions name, or a newer one.",
        ) from error
    if len(model) > LARGE:
        _give_back()
    return session


def _give_back() -> None:
    """Return what loading has freed to the system: of a large forest's memory, more than half."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others have none
    if trim is not None:
        trim(0)


def _check_inputs(session: Any, inputs: tuple[ModelInput, ...], signature: Signature) -> None:
    given = {entry.name: entry for entry in session.get_inputs()}
    if given.keys() != {entry.name for entry in inputs}:
        raise BundleError(
            f"The bundle's model takes {sorted(given)}, its manifest names "
            f"{sorted(entry.name for entry in inputs)}."
        )
    for entry in inputs:
        found = given[entry.name]
        fixed = [size for size in found.shape[1:] if isinstance(size, int)]
        width = signature.tensor.size if signature.tensor else len(entry.columns)
        whole = len(fixed) == len(found.shape) - 1
        if found.type != ELEMENTS[entry.dtype] or (whole and math.prod(fixed) != width):
            raise BundleError(
                f"The bundle's model takes '{entry.name}' as {found.type} {found.shape}, its "
                f"manifest as {entry.dtype} of width {width}."
            )


def _check_outputs(session: Any, names: tuple[str | None, ...]) -> None:
    given = {entry.name for entry in session.get_outputs()}
    wanted = {name for name in names if name}
    if not wanted or not wanted <= given:
        raise BundleError(
            f"The bundle's model answers {sorted(given)}, its manifest names {sorted(wanted)}."
        )

"""Loads a bundle's compiled model.

    runtime = load_runtime(bundle)
    labels, probabilities, values = runtime.run(arrays)   # arrays as declared by the manifest

Each kind of model has its module (`onnx_runtime`, `sklearn_runtime`, `remote_runtime`), which is
imported on first use because of the library that it needs.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from tidemill.bundle import Bundle
from tidemill.errors import BundleError
from tidemill.serving.codec.outputs import Array, RawOutputs
from tidemill.serving.model.remote_runtime import RemoteRuntime, WorkerConnection, socket_path


class Runtime(Protocol):
    """A compiled model in memory; several threads may call `run` at once."""

    def run(self, inputs: list[Array]) -> RawOutputs:
        """Label indices int64 [rows], probabilities [rows, labels] and values [rows].

        A classifier without a label output returns None for the labels: they are the argmax of the
        probabilities, the first of equal ones. A regressor returns values alone.

        Args:
            inputs: One array for each input of the manifest, in its order, each [rows, ...].
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
        trusted: Types that the operator allows a native fallback to rebuild, in addition to the
            list in `tidemill.serving.model.sklearn_runtime`.
        home: Where to find the workers of models that run in their own process; None for none.
        seconds: Time limit for an answer from such a worker, and for a graph with loops.

    Raises:
        BundleError: The model cannot be loaded, does not match the manifest, needs a package that
            is not installed, or contains a type that is not trusted.
    """
    kind = bundle.manifest.runtime
    if kind == "pyfunc":
        return _connect_worker(bundle, home, seconds)
    if kind == "skops":
        sklearn_runtime = importlib.import_module("tidemill.serving.model.sklearn_runtime")
        runtime: Runtime = sklearn_runtime.load_native(bundle, trusted=trusted)
        return runtime
    onnx_runtime = importlib.import_module("tidemill.serving.model.onnx_runtime")
    compiled: Runtime = onnx_runtime.OnnxRuntime(
        bundle.model_path.read_bytes(), bundle.manifest, bundle.signature, seconds
    )
    return compiled


def _connect_worker(bundle: Bundle, home: Path | None, seconds: float) -> Runtime:
    if home is None:
        raise BundleError(
            "This bundle's model runs in a process of its own, which only a server starts.",
            remedy="Serve it with `tidemill serve NAME --trust` and send requests to the server.",
        )
    connection = WorkerConnection(socket_path(home, bundle.digest), seconds)
    return RemoteRuntime(connection, bundle.signature)

"""Runs one MLflow model for the data plane, in a process of its own.

    python -m tidemill.loop.sync.pyfunc_server FOLDER SOCKET --model MLFLOW_FOLDER

`FOLDER` contains the bundle's signature.json, `MLFLOW_FOLDER` the unpacked MLflow model. Loading it
may unpickle and run code, so start this only if you trust everyone who can write to the registry.
If the model cannot be loaded, every request is answered with the reason. The process exits when its
parent does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidemill.bundle import SIGNATURE
from tidemill.serving.model.remote_runtime import (
    RunRequest,
    RunResponse,
    from_wire,
    loaded_mark,
    receive,
    send,
    to_wire,
)
from tidemill.signature import Signature
from tidemill.steps.export.external_signature import input_layout

TIME_LIMIT = 300.0  # seconds for one run, after which the process exits and is restarted
MODEL_FILE = "MLmodel"
#: MLflow's column types as numpy types.
DTYPES = {
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
}
Predict = Callable[[list[Any]], Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Load the model and answer requests until the parent exits."""
    parser = argparse.ArgumentParser(prog="python -m tidemill.loop.sync.pyfunc_server")
    parser.add_argument("folder", type=Path)
    parser.add_argument("socket", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    given = parser.parse_args(arguments)
    _exit_with_parent()
    loaded = True
    try:
        predict = load(given.folder, given.model)
    except BaseException as error:  # loading runs the model's own code
        predict, loaded = _always_fail(error), False
    with contextlib.suppress(FileNotFoundError):
        given.socket.unlink()
    draft = given.socket.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    with PyfuncServer(str(draft), predict) as server:
        draft.rename(given.socket)
        if loaded:
            loaded_mark(given.socket).touch()
        server.serve_forever()


def load(folder: Path, model: Path) -> Predict:
    """Load the model as a function of the arrays that the data plane sends.

    Args:
        folder: Contains the bundle's signature.json.
        model: The folder of the MLflow model.
    """
    import mlflow.pyfunc

    from tidemill.stores.mlflow.connection import silence_mlflow_output, without_warnings

    silence_mlflow_output()
    signature = msgspec.json.decode((folder / SIGNATURE).read_bytes(), type=Signature)
    with without_warnings():
        loaded = mlflow.pyfunc.load_model(str(model))
    types = column_types(model)

    def predict(arrays: list[Any]) -> Any:
        with without_warnings():
            return to_array(loaded.predict(rows_of(arrays, signature, types)))

    return predict


def column_types(model: Path) -> dict[str, str]:
    """MLflow's type of each named input; empty for a tensor or a model without a signature."""
    import yaml  # type: ignore[import-untyped]

    found = yaml.safe_load((model / MODEL_FILE).read_text()).get("signature") or {}
    inputs = json.loads(found.get("inputs") or "[]")
    return {entry["name"]: str(entry["type"]) for entry in inputs if "name" in entry}


def rows_of(arrays: Sequence[Any], signature: Signature, types: dict[str, str]) -> Any:
    """Convert the arrays to the model's input: a tensor, or a DataFrame with MLflow's types.

    Args:
        arrays: In the order of `input_layout(signature)`.
        types: MLflow's type by column.
    """
    import pandas as pd

    if signature.tensor is not None:
        kind = types.get(signature.tensor.name)
        return {signature.tensor.name: arrays[0]} if kind == "tensor" else arrays[0]
    columns: dict[str, Any] = {}
    for entry, array in zip(input_layout(signature), arrays, strict=True):
        for i, name in enumerate(entry.columns):
            values = array[:, i]
            if entry.missing is not None:
                values = np.where(values == entry.missing, None, values)
            columns[name] = _typed(values, types.get(name))
    return pd.DataFrame({name: columns[name] for name in signature.names})


def to_array(prediction: Any) -> Any:
    """Convert a prediction to an array of numbers or strings.

    Raises:
        TypeError: It is not an array, a list or a table of those.
    """
    if isinstance(prediction, dict):
        (prediction,) = prediction.values()
    array = np.asarray(prediction)
    if array.dtype.kind == "O":
        kinds = {type(value) for value in array.reshape(-1).tolist()}
        if kinds <= {bool}:
            array = array.astype(bool)
        elif kinds <= {int, float, bool}:
            array = array.astype(np.float64)
        elif kinds != {str}:
            raise TypeError(f"the model returned {', '.join(sorted(k.__name__ for k in kinds))}")
    if array.dtype.kind not in "fiubOU":
        raise TypeError(f"the model returned {array.dtype}")
    return array


class PyfuncServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers each connection in a thread; the model runs in one thread at a time."""

    daemon_threads = True

    def __init__(self, path: str, predict: Predict) -> None:
        self.predict = predict
        self.lock = threading.Lock()
        super().__init__(path, _Handler)


class _Handler(socketserver.BaseRequestHandler):
    server: PyfuncServer

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := receive(self.request):
                send(self.request, self._respond(data))

    def _respond(self, data: bytes) -> RunResponse:
        try:
            request = msgspec.msgpack.decode(data, type=RunRequest)
            arrays = [from_wire(wire) for wire in request.inputs]
            with self.server.lock, _limited(TIME_LIMIT):
                return RunResponse(output=to_wire(self.server.predict(arrays)))
        except Exception as error:  # a model may fail in any way
            return RunResponse(error=f"{type(error).__name__}: {error}"[:2000])


@contextlib.contextmanager
def _limited(seconds: float) -> Any:
    """Exit the process if the block takes too long; the supervisor then restarts it."""
    timer = threading.Timer(seconds, os._exit, (3,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _always_fail(error: BaseException) -> Predict:
    why = f"it cannot be loaded: {type(error).__name__}: {error}"
    print(why, file=sys.stderr, flush=True)

    def predict(arrays: list[Any]) -> Any:
        raise RuntimeError(why)

    return predict


def _typed(values: Any, kind: str | None) -> Any:
    """Convert a column to MLflow's type; numbers with missing values stay floating-point."""
    if kind not in DTYPES:
        return values
    missing = values.dtype.kind == "f" and np.isnan(values).any()
    return (
        values
        if missing and kind in ("boolean", "integer", "long")
        else values.astype(DTYPES[kind])
    )


def _exit_with_parent() -> None:
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()

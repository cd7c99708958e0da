"""Runs one MLflow model for the data plane: a process of its own, which loads what others wrote.

    python -m tidemill.loop.sync.pyfunc_server FOLDER SOCKET --model MLFLOW_FOLDER

`FOLDER` holds the bundle's signature.json, `MLFLOW_FOLDER` the unpacked MLflow model. Loading it
may unpickle, so whoever starts this trusts whoever can write to the registry. A model that cannot
be loaded is answered for, too: with the reason. The process ends with the one that started it.
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

TIME_LIMIT = 300.0  # seconds after which a model that does not come back is given up
MODEL_FILE = "MLmodel"
#: MLflow's types of columns as pandas and numpy know them.
DTYPES = {
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
}
Answer = Callable[[list[Any]], Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Load the model and answer until the parent ends."""
    parser = argparse.ArgumentParser(prog="python -m tidemill.loop.sync.pyfunc_server")
    parser.add_argument("folder", type=Path)
    parser.add_argument("socket", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    given = parser.parse_args(arguments)
    _end_with_parent()
    loaded = True
    try:
        answer = load(given.folder, given.model)
    except BaseException as error:  # loading runs the model's own code
        answer, loaded = _failing(error), False
    with contextlib.suppress(FileNotFoundError):
        given.socket.unlink()
    draft = given.socket.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    with PyfuncServer(str(draft), answer) as server:
        draft.rename(given.socket)
        if loaded:
            loaded_mark(given.socket).touch()
        server.serve_forever()


def load(folder: Path, model: Path) -> Answer:
    """The model as a function of the arrays that the data plane sends.

    Args:
        folder: Where the bundle's signature.json is.
        model: The folder of the MLflow model.
    """
    import mlflow.pyfunc

    from tidemill.stores.mlflow.connection import silence_mlflow_output, without_warnings

    silence_mlflow_output()
    signature = msgspec.json.decode((folder / SIGNATURE).read_bytes(), type=Signature)
    with without_warnings():
        loaded = mlflow.pyfunc.load_model(str(model))
    types = column_types(model)

    def answer(arrays: list[Any]) -> Any:
        with without_warnings():
            return plain(loaded.predict(rows_of(arrays, signature, types)))

    return answer


def column_types(model: Path) -> dict[str, str]:
    """MLflow's type of each named input; none for a tensor or a model without a signature."""
    import yaml  # type: ignore[import-untyped]

    found = yaml.safe_load((model / MODEL_FILE).read_text()).get("signature") or {}
    inputs = json.loads(found.get("inputs") or "[]")
    return {entry["name"]: str(entry["type"]) for entry in inputs if "name" in entry}


def rows_of(arrays: Sequence[Any], signature: Signature, types: dict[str, str]) -> Any:
    """The arrays as the model takes them: a tensor, or a DataFrame with the types it was told of.

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
        for place, name in enumerate(entry.columns):
            values = array[:, place]
            if entry.missing is not None:
                values = np.where(values == entry.missing, None, values)
            columns[name] = _typed(values, types.get(name))
    return pd.DataFrame({name: columns[name] for name in signature.names})


def plain(found: Any) -> Any:
    """A prediction as an array of numbers or texts.

    Raises:
        TypeError: It is neither an array, nor a list, nor a table.
    """
    if isinstance(found, dict):
        (found,) = found.values()
    array = np.asarray(found)
    if array.dtype.kind == "O":
        kinds = {type(value) for value in array.reshape(-1).tolist()}
        if kinds <= {bool}:
            array = array.astype(bool)
        elif kinds <= {int, float, bool}:
            array = array.astype(np.float64)
        elif kinds != {str}:
            raise TypeError(f"the model gave {', '.join(sorted(k.__name__ for k in kinds))}")
    if array.dtype.kind not in "fiubOU":
        raise TypeError(f"the model gave {array.dtype}")
    return array


class PyfuncServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers each connection in a thread; the model runs in one at a time."""

    daemon_threads = True

    def __init__(self, path: str, answer: Answer) -> None:
        self.answer = answer
        self.lock = threading.Lock()
        super().__init__(path, _Handler)


class _Handler(socketserver.BaseRequestHandler):
    server: PyfuncServer

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := receive(self.request):
                send(self.request, self._reply(data))

    def _reply(self, data: bytes) -> RunResponse:
        try:
            question = msgspec.msgpack.decode(data, type=RunRequest)
            arrays = [from_wire(packed) for packed in question.inputs]
            with self.server.lock, _limited(TIME_LIMIT):
                return RunResponse(output=to_wire(self.server.answer(arrays)))
        except Exception as error:  # a model may fail in any way
            return RunResponse(error=f"{type(error).__name__}: {error}"[:2000])


@contextlib.contextmanager
def _limited(seconds: float) -> Any:
    """End the process when what is done inside does not come back; it is started anew then."""
    timer = threading.Timer(seconds, os._exit, (3,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _failing(error: BaseException) -> Answer:
    why = f"it cannot be loaded: {type(error).__name__}: {error}"
    print(why, file=sys.stderr, flush=True)

    def answer(arrays: list[Any]) -> Any:
        raise RuntimeError(why)

    return answer


def _typed(values: Any, kind: str | None) -> Any:
    """A column as MLflow's type has it; numbers with gaps stay floating-point."""
    if kind not in DTYPES:
        return values
    gaps = values.dtype.kind == "f" and np.isnan(values).any()
    return (
        values if gaps and kind in ("boolean", "integer", "long") else values.astype(DTYPES[kind])
    )


def _end_with_parent() -> None:
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()

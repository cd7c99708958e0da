"""Runs a model in a worker process, reached over a local socket.

The data plane imports no MLflow and unpickles nothing. A version that only MLflow's `pyfunc` can
run is loaded by a worker (`tidemill.loop.sync.pyfunc_server`), which
`tidemill.loop.sync.pyfunc_supervisor` starts. They exchange numbers and strings in MessagePack;
each message is preceded by its length (4 bytes, little-endian):

    {"inputs": [tensor, ...]}  ->  {"output": tensor} or {"error": "why"}

where a tensor is [dtype, shape, bytes], or ["str", shape, strings].
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import struct
import tempfile
import threading
from pathlib import Path

import msgspec
import numpy as np

from tidemill.errors import BundleError, TidemillError, UnavailableError
from tidemill.serving.codec.outputs import Array, RawOutputs
from tidemill.signature import Label, Signature

WireTensor = tuple[str, tuple[int, ...], bytes | list[str]]

LENGTH = struct.Struct("<I")
LONGEST_PATH = 100  # bytes; a socket address has room for 107
CONNECT_SECONDS = 2.0
TEXT = "str"


class RunRequest(msgspec.Struct):
    """The inputs of one run, in the order of the manifest."""

    inputs: list[WireTensor]


class RunResponse(msgspec.Struct):
    """The model's output, or why it failed."""

    output: WireTensor | None = None
    error: str | None = None


def socket_path(home: Path, digest: str) -> Path:
    """Where the worker of a bundle listens: in the home, or in a temporary folder of this user if
    that path is too long for a socket."""
    path = home.resolve() / "run" / f"{digest[:12]}.sock"
    if len(os.fsencode(path)) <= LONGEST_PATH:
        return path
    home_id = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:12]
    return Path(tempfile.gettempdir(), f"tidemill-{os.getuid()}-{home_id}", path.name)


def loaded_mark(socket: Path) -> Path:
    """The file that a worker creates next to its socket once its model is loaded."""
    return socket.with_suffix(".loaded")


def check_folder(folder: Path) -> None:
    """Refuse a socket folder in which another user could have placed a socket.

    Raises:
        BundleError: The folder belongs to another user, or others may write to it.
    """
    found = folder.stat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise BundleError(
            f"{folder} belongs to another user or is writable by others; its workers are not used."
        )


def send(connection: socket.socket, message: msgspec.Struct) -> None:
    """Write one message."""
    data = msgspec.msgpack.encode(message)
    connection.sendall(LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> bytes:
    """Read one message; empty if the other side has closed the connection.

    Raises:
        ConnectionError: The connection ended in the middle of a message.
    """
    head = _read_exactly(connection, LENGTH.size)
    return _read_exactly(connection, LENGTH.unpack(head)[0], whole=True) if head else b""


def to_wire(array: Array) -> WireTensor:
    """Convert an array for a message."""
    if array.dtype.kind in "OUS":
        return TEXT, array.shape, [str(text) for text in array.reshape(-1).tolist()]
    return array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes()


def from_wire(wire: WireTensor) -> Array:
    """Convert an array from a message.

    Raises:
        ValueError: The bytes do not have that shape, or the type is not numeric.
    """
    kind, shape, data = wire
    if isinstance(data, bytes):
        dtype = np.dtype(kind)
        if dtype.kind not in "fiub":
            raise ValueError(f"an array of {kind}")
        return np.frombuffer(data, dtype).reshape(shape)
    array = np.empty(len(data), object)
    array[:] = data
    return array.reshape(shape)


class WorkerConnection:
    """A connection to one worker, used by one caller at a time and renewed when it breaks.

    Args:
        path: The worker's socket.
        seconds: Time limit for an answer.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._decode = msgspec.msgpack.Decoder(RunResponse).decode

    def run(self, inputs: list[Array]) -> Array:
        """Run the model.

        Raises:
            UnavailableError: The worker is not running, stopped, or takes too long.
            TidemillError: The model failed; contains its error.
        """
        request = RunRequest([to_wire(array) for array in inputs])
        with self._lock:
            try:
                response = self._exchange(request)
            except (OSError, msgspec.MsgspecError) as error:
                self.close()
                raise UnavailableError(
                    f"The model's worker process does not answer: {error or type(error).__name__}.",
                    remedy="It is restarted automatically; its log says why it stopped.",
                ) from error
        if response.output is None:
            raise TidemillError(f"The model failed in its worker process: {response.error}")
        return from_wire(response.output)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
            self._connection = None

    def _exchange(self, request: RunRequest) -> RunResponse:
        for retried in (False, True):
            reused = self._connection is not None
            connection = self._connection or self._connect()
            try:
                send(connection, request)
                if data := receive(connection):
                    return self._decode(data)
            except (BrokenPipeError, ConnectionResetError):
                if retried or not reused:
                    raise
            self.close()
            if not reused:
                break
        raise ConnectionError("it closed the connection")

    def _connect(self) -> socket.socket:
        check_folder(self._path.parent)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(CONNECT_SECONDS)
        try:
            connection.connect(str(self._path))
        except OSError:
            connection.close()
            raise
        connection.settimeout(self._seconds)
        self._connection = connection
        return connection


class RemoteRuntime:
    """A `Runtime` whose model runs in a worker process.

    Attributes:
        waits: It waits for another process, so it must not run on the event loop.
    """

    waits = True

    def __init__(self, connection: WorkerConnection, signature: Signature) -> None:
        self._connection = connection
        self._labels = signature.labels

    def __del__(self) -> None:
        self._connection.close()

    def run(self, inputs: list[Array]) -> RawOutputs:
        """Label indices, probabilities and values.

        Raises:
            UnavailableError: The worker does not answer.
            TidemillError: The model failed, or its output does not fit its signature.
        """
        return read_output(self._connection.run(inputs), len(inputs[0]), self._labels)


def read_output(output: Array, rows: int, labels: tuple[Label, ...]) -> RawOutputs:
    """Interpret a model's output as labels, probabilities or values.

    Args:
        output: [rows] or [rows, 1] labels or numbers, or [rows, labels] probabilities. Other
            scores (logits, margins) determine the label, but give no probabilities.

    Raises:
        TidemillError: The output is none of these.
    """
    if output.ndim == 2 and output.shape[1] == 1:
        output = output[:, 0]
    if labels and output.shape == (rows, len(labels)) and output.dtype.kind == "f":
        scores = output.astype(np.float64)
        if _are_probabilities(scores):
            return None, scores, None
        if not np.isfinite(scores).all():
            raise TidemillError("The model returned scores that are not finite.")
        return scores.argmax(axis=1), None, None
    if output.shape != (rows,):
        raise TidemillError(
            f"The model returned an output of shape {list(output.shape)} for {rows} rows."
        )
    if not labels:
        if output.dtype.kind not in "fiub":
            raise TidemillError("The model returned strings, but its signature declares numbers.")
        return None, None, output.astype(np.float64)
    index = {label: i for i, label in enumerate(labels)}
    indices = [index.get(value, -1) for value in output.tolist()]
    if -1 in indices:
        unknown = output.tolist()[indices.index(-1)]
        raise TidemillError(f"The model returned {unknown!r:.80}, which is not one of its labels.")
    return np.array(indices, np.int64), None, None


def _are_probabilities(scores: Array) -> bool:
    """Whether every row sums to 1, within the precision of 32-bit floats."""
    return bool((scores >= 0).all() and (abs(scores.sum(axis=1) - 1) < 1e-3).all())


def _read_exactly(connection: socket.socket, count: int, *, whole: bool = False) -> bytes:
    parts: list[bytes] = []
    missing = count
    while missing:
        part = connection.recv(min(missing, 1 << 20))
        if not part:
            if parts or whole:
                raise ConnectionError("it ended in the middle of a message")
            return b""
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)

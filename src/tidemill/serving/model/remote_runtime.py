"""A model that runs in a process of its own, reached over a socket of this machine.

The data plane imports no MLflow and unpickles nothing. A version that only MLflow's `pyfunc` can
run is answered by a worker (`tidemill.loop.sync.pyfunc_server`), which
`tidemill.loop.sync.pyfunc_supervisor` starts. Between
them pass numbers and texts in MessagePack, each message behind its length (4 bytes, little-endian):

    {"inputs": [tensor, ...]}  ->  {"output": tensor} or {"error": "why"}

where a tensor is [dtype, shape, bytes], or ["str", shape, texts].
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
from typing import Any

import msgspec
import numpy as np

from tidemill.errors import BundleError, TidemillError, UnavailableError
from tidemill.signature import Label, Signature

Array = np.ndarray[Any, Any]
Answers = tuple[Array | None, Array | None, Array | None]
WireTensor = tuple[str, tuple[int, ...], bytes | list[str]]

LENGTH = struct.Struct("<I")
LONGEST_PATH = 100  # bytes; a socket's address holds 107
CONNECT_SECONDS = 2.0
TEXT = "str"


class RunRequest(msgspec.Struct):
    inputs: list[WireTensor]


class RunResponse(msgspec.Struct):
    output: WireTensor | None = None
    error: str | None = None


def socket_path(home: Path, digest: str) -> Path:
    """Where the worker of a bundle listens: in the home, or in the user's own folder among the
    temporary ones when that path is too long for a socket."""
    own = home.resolve() / "run" / f"{digest[:12]}.sock"
    if len(os.fsencode(own)) <= LONGEST_PATH:
        return own
    where = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:12]
    return Path(tempfile.gettempdir(), f"tidemill-{os.getuid()}-{where}", own.name)


def loaded_mark(socket: Path) -> Path:
    """The file that a worker puts beside its socket once its model is loaded."""
    return socket.with_suffix(".loaded")


def check_folder(folder: Path) -> None:
    """Refuse a folder of sockets that somebody else could have put there.

    Raises:
        BundleError: It is another user's, or others may write to it.
    """
    found = folder.stat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise BundleError(f"{folder} is not this user's alone; no worker there is asked.")


def send(connection: socket.socket, message: msgspec.Struct) -> None:
    """Write one message."""
    data = msgspec.msgpack.encode(message)
    connection.sendall(LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> bytes:
    """Read one message; empty when the other side is gone.

    Raises:
        ConnectionError: It went in the middle of one.
    """
    head = _exactly(connection, LENGTH.size)
    return _exactly(connection, LENGTH.unpack(head)[0], whole=True) if head else b""


def to_wire(array: Array) -> WireTensor:
    """An array as it travels."""
    if array.dtype.kind in "OUS":
        return TEXT, array.shape, [str(text) for text in array.reshape(-1).tolist()]
    return array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes()


def from_wire(packed: WireTensor) -> Array:
    """The array that travelled.

    Raises:
        ValueError: The bytes are not of that shape, or of a type that is no number.
    """
    kind, shape, data = packed
    if isinstance(data, bytes):
        dtype = np.dtype(kind)
        if dtype.kind not in "fiub":
            raise ValueError(f"an array of {kind}")
        return np.frombuffer(data, dtype).reshape(shape)
    array = np.empty(len(data), object)
    array[:] = data
    return array.reshape(shape)


class WorkerConnection:
    """One worker, asked by one caller at a time; a connection that broke is made anew."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._decode = msgspec.msgpack.Decoder(RunResponse).decode

    def ask(self, inputs: list[Array]) -> Array:
        """What the model answers.

        Raises:
            UnavailableError: The worker is not there, went away, or takes too long.
            TidemillError: The model failed; tells how.
        """
        question = RunRequest([to_wire(array) for array in inputs])
        with self._lock:
            try:
                reply = self._asked(question)
            except (OSError, msgspec.MsgspecError) as error:
                self.close()
                raise UnavailableError(
                    f"The model's worker does not answer: {error or type(error).__name__}.",
                    remedy="It is started again by itself; its log says why it went.",
                ) from error
        if reply.output is None:
            raise TidemillError(f"The model failed in its worker: {reply.error}")
        return from_wire(reply.output)

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
            self._connection = None

    def _asked(self, question: RunRequest) -> RunResponse:
        for fresh in (False, True):
            known = self._connection is not None
            connection = self._connection or self._connect()
            try:
                send(connection, question)
                if data := receive(connection):
                    return self._decode(data)
            except (BrokenPipeError, ConnectionResetError):
                if fresh or not known:
                    raise
            self.close()
            if not known:
                break
        raise ConnectionError("it went away")

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

    def __init__(self, link: WorkerConnection, signature: Signature) -> None:
        self._link = link
        self._labels = signature.labels

    def __del__(self) -> None:
        self._link.close()

    def run(self, inputs: list[Array]) -> Answers:
        """Labels, probabilities and values.

        Raises:
            UnavailableError: The worker cannot be asked now.
            TidemillError: The model failed, or answered what its signature does not hold.
        """
        return read_output(self._link.ask(inputs), len(inputs[0]), self._labels)


def read_output(output: Array, rows: int, labels: tuple[Label, ...]) -> Answers:
    """What a model gave, as labels, probabilities or values.

    Args:
        output: [rows] or [rows, 1] labels or numbers, or [rows, labels] probabilities. Scores of
            another kind (logits, margins) tell the label, and no probability.

    Raises:
        TidemillError: It is none of these.
    """
    if output.ndim == 2 and output.shape[1] == 1:
        output = output[:, 0]
    if labels and output.shape == (rows, len(labels)) and output.dtype.kind == "f":
        shares = output.astype(np.float64)
        if _are_probabilities(shares):
            return None, shares, None
        if not np.isfinite(shares).all():
            raise TidemillError("The model gave scores that are not finite.")
        return shares.argmax(axis=1), None, None
    if output.shape != (rows,):
        raise TidemillError(f"The model gave {list(output.shape)} for {rows} rows.")
    if not labels:
        if output.dtype.kind not in "fiub":
            raise TidemillError("The model gave texts where its answers are numbers.")
        return None, None, output.astype(np.float64)
    places = {label: place for place, label in enumerate(labels)}
    found = [places.get(value, -1) for value in output.tolist()]
    if -1 in found:
        strange = output.tolist()[found.index(-1)]
        raise TidemillError(f"The model gave {strange!r:.80}, which is none of its labels.")
    return np.array(found, np.int64), None, None


def _are_probabilities(shares: Array) -> bool:
    """Whether every row holds shares of one, as far as 32-bit numbers tell."""
    return bool((shares >= 0).all() and (abs(shares.sum(axis=1) - 1) < 1e-3).all())


def _exactly(connection: socket.socket, count: int, *, whole: bool = False) -> bytes:
    parts: list[bytes] = []
    missing = count
    while missing:
        part = connection.recv(min(missing, 1 << 20))
        if not part:
            if parts or whole:
                raise ConnectionError("it went in the middle of a message")
            return b""
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)

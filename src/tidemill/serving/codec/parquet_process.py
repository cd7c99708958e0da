"""A child process that reads Parquet files, because a damaged file can end the one that reads it.

pyarrow calls `std::terminate` for some invalid footers: no exception handler sees it. See decision
230. The child is started with the first file, reads one file at a time, and is replaced when it
dies or takes too long. It runs `parquet_table`.

A request is a header and the file, an answer is a header and an Arrow stream. A header is a JSON
object; it and what follows it are preceded by their lengths in 8 bytes.
"""

from __future__ import annotations

import atexit
import functools
import struct
import subprocess
import sys
import threading
from typing import IO

import msgspec

from tidemill import errors
from tidemill.errors import MalformedError, TidemillError, TooLargeError, UnavailableError
from tidemill.serving.codec.body_limits import BodyLimits

READ_SECONDS = 10.0  # for one file
_LENGTHS = struct.Struct("<QQ")
_COMMAND = (sys.executable, "-m", "tidemill.serving.codec.parquet_table")


class ParquetRequest(msgspec.Struct, frozen=True):
    """What to read: the columns `names`, or all if None; `texts` are the text columns."""

    names: list[str] | None
    texts: list[str]
    limits: BodyLimits


class Refusal(msgspec.Struct, frozen=True, omit_defaults=True):
    """A `TidemillError` as text; `error` is the name of its class."""

    error: str
    detail: str
    field: str | None = None
    expected: str | None = None
    remedy: str | None = None

    @classmethod
    def of(cls, error: TidemillError) -> Refusal:
        """Describe an error."""
        kind = type(error).__name__
        return cls(kind, error.detail, error.field, error.expected, error.remedy)

    def exception(self) -> TidemillError:
        """The error described."""
        kind: type[TidemillError] = getattr(errors, self.error)
        return kind(self.detail, field=self.field, expected=self.expected, remedy=self.remedy)


class ParquetProcess:
    """Reads files in a child process; safe to use from several threads, which take turns."""

    def __init__(self, seconds: float = READ_SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def read(self, request: ParquetRequest, file: bytes) -> bytes:
        """The Arrow stream that the child makes of a file.

        Raises:
            TidemillError: The child refused the file.
            MalformedError: Reading the file ended the child.
            TooLargeError: It took longer than allowed.
            UnavailableError: The child did not start.
        """
        with self._lock:
            child = self._running()
            late = threading.Event()
            timer = threading.Timer(self._seconds, _kill, (child, late))
            timer.start()
            try:
                header, table = _exchange(child, msgspec.json.encode(request), file)
            except (EOFError, OSError) as error:
                self._end()
                raise _death(late.is_set(), self._seconds) from error
            finally:
                timer.cancel()
                timer.join()
                if late.is_set():
                    self._end()
        if header:
            raise msgspec.json.decode(header, type=Refusal).exception()
        return table

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._end()
            self._child = subprocess.Popen(
                _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            self._wait_until_ready(self._child)
        return self._child

    def _wait_until_ready(self, child: subprocess.Popen[bytes]) -> None:
        """Wait for the child's first message, so that its imports do not count as reading."""
        assert child.stdout is not None
        try:
            receive(child.stdout)
        except EOFError as error:
            self._end()
            raise UnavailableError(
                "The process that reads Parquet files did not start.",
                remedy="Retry after a short pause, or send JSON or CSV.",
            ) from error

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()


def _kill(child: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    child.kill()


def _death(late: bool, seconds: float) -> TidemillError:
    if late:
        return TooLargeError(
            f"Reading the Parquet file took longer than {seconds:g} s.",
            remedy="Send fewer rows at once.",
        )
    return MalformedError("The body is not a Parquet file: reading it failed.")


def _exchange(child: subprocess.Popen[bytes], request: bytes, file: bytes) -> tuple[bytes, bytes]:
    assert child.stdin is not None
    assert child.stdout is not None
    send(child.stdin, request, file)
    return receive(child.stdout)


def send(pipe: IO[bytes], header: bytes, body: bytes) -> None:
    """Write one message."""
    pipe.write(_LENGTHS.pack(len(header), len(body)))
    pipe.write(header)
    pipe.write(body)
    pipe.flush()


def receive(pipe: IO[bytes]) -> tuple[bytes, bytes]:
    """Read one message.

    Raises:
        EOFError: The other side ended.
    """
    header, body = _LENGTHS.unpack(_exactly(pipe, _LENGTHS.size))
    return _exactly(pipe, header), _exactly(pipe, body)


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    found = pipe.read(size)
    if len(found) < size:
        raise EOFError
    return found


@functools.cache
def shared_process() -> ParquetProcess:
    """The process that this program's requests share."""
    process = ParquetProcess()
    atexit.register(process.close)
    return process

"""The journal: every acknowledged prediction, on disk before its answer leaves.

    journal = Journal(folder, JournalOptions(when_full="refuse"))
    if journal.refusing: ...answer 503 before any work...
    journal.append(id=..., time=..., model=..., version=..., ...)   # as many as the loop turn has
    written = journal.commit()                                      # one write(2) for all of them
    ...release the held answers when `written`, answer 503 in their place when not...

A process appends to segments of its own and any number of processes share one folder; the format
and the reader are in `tidemill.serving.journal.segments`. A commit is written, not fsynced: it
outlives the
process however that ends, not a power cut.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
import weakref
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from tidemill.errors import SettingsError
from tidemill.serving.journal.records import Encoding, JournalRecord, JournalRun
from tidemill.serving.journal.segments import (
    FRAME,
    HEADER,
    MAGIC,
    MARKER,
    SUFFIX,
    FolderSize,
    is_closed,
    measure_folder,
)
from tidemill.signature import Label, Value

DRAFT = ".draft"
DRAFT_SECONDS = 60.0
ENCODING_ERRORS = (UnicodeError, OverflowError, TypeError, ValueError)


class ModelRule(msgspec.Struct, frozen=True):
    """What is recorded of one model: a share of its requests (0 to 1), with or without inputs."""

    sample: float = 1.0
    inputs: bool = True


class JournalOptions(msgspec.Struct, frozen=True):
    """How much is kept, and what happens when that is reached.

    `max_bytes` bounds the folder, all processes together; each process looks at the folder once a
    second, so the bound can be passed by what the others write within a second. When it is reached,
    or the disk refuses to write, `drop` goes on answering and counts what is not recorded, and
    `refuse` answers 503 until ingest has made room.

    `rule` holds for every model that `models` does not name.
    """

    segment_bytes: int = 64 << 20
    segment_seconds: float = 60.0
    max_bytes: int = 1 << 30
    when_full: Literal["drop", "refuse"] = "drop"
    rule: ModelRule = ModelRule()
    models: Mapping[str, ModelRule] = msgspec.field(default_factory=dict)


class JournalState(msgspec.Struct, frozen=True):
    """The journal in numbers, for metrics and readiness.

    `records` and `bytes` were written by this process; `dropped` records were given up under the
    policy `drop`, `refused` ones answered 503. `folder_bytes`, `folder_segments` and `lag_seconds`
    (the age of the oldest closed segment that ingest has not taken) are of all processes, as of the
    last look.
    """

    records: int
    bytes: int
    dropped: int
    refused: int
    folder_bytes: int
    folder_segments: int
    lag_seconds: float
    full: bool
    last_error: str | None


class Journal:
    """The writer. Not thread-safe: one thread of one process, normally the event loop's.

    Args:
        folder: Where segments are written; made if it is not there. On a local file system.
        options: Bounds, policy, sampling, and the switch for inputs.
        writer: A short name of this process for the file names, such as `w1`.

    Raises:
        SettingsError: The folder cannot be written to, or its file system knows no locks.
    """

    def __init__(
        self, folder: Path, options: JournalOptions | None = None, *, writer: str = "w"
    ) -> None:
        self.folder = folder
        self.options = options or JournalOptions()
        self._writer = f"{writer}-{os.getpid()}-{secrets.token_hex(3)}"
        self._seed = secrets.randbits(32)
        self._encode = msgspec.msgpack.Encoder().encode
        self._rules = dict(self.options.models)
        self._pending: list[JournalRun] = []
        self._waiting = 0  # requests in there
        self._segment: _OpenSegment | None = None
        self._sequence = 0
        self._records = self._bytes = self._dropped = self._refused = 0
        self._folder = FolderSize(0, 0, 0.0)
        self._since_look = 0  # bytes written since the folder was looked at ...
        self._room = self.options.max_bytes  # ... when so many more were allowed
        self._full = self._failing = self._refusing = False
        self._error: str | None = None
        self._next_tick = 0.0
        self._try_out()
        self.tick()

    @property
    def refusing(self) -> bool:
        """Whether every answer would have to be a 503 (policy `refuse` only)."""
        if self._refusing and time.monotonic() >= self._next_tick:
            self.tick()
        return self._refusing

    def append(
        self,
        *,
        id: str,
        time: float,
        model: str,
        version: str,
        features: bytes | Sequence[Sequence[Value]] | None,
        encoding: Encoding,
        predictions: Sequence[Label],
        probabilities: bytes | None,
        latency: float,
        request_id: str | None = None,
        key_id: str | None = None,
        role: str = "champion",
    ) -> None:
        """Buffer one answered request; `commit` writes it. Fields as in `JournalRecord`."""
        rule = self.rule(model)
        if not is_sampled(id, rule.sample):
            return
        if not rule.inputs:
            features, encoding = None, "none"
        record = JournalRecord(
            id, time, model, version, len(predictions), encoding,
            features,  # type: ignore[arg-type]  # any sequence is written as a list
            list(predictions),
            probabilities, latency, request_id, key_id, role, rule.sample,
        )  # fmt: skip
        self.add(JournalRun.of(record))

    def rule(self, model: str) -> ModelRule:
        """What is recorded of a model."""
        return self._rules.get(model) or self.options.rule

    def add(self, run: JournalRun) -> None:
        """Put a run into the buffer as it is, for a caller that follows the model's rule."""
        self._pending.append(run)
        self._waiting += len(run.ids)

    def commit(self) -> bool:
        """Write the buffer with one system call.

        Returns:
            True when every answer appended since the last commit may leave: its record is on disk,
            or was not sampled, or was dropped under the policy `drop`. False when each of them must
            be a 503 instead.
        """
        if time.monotonic() >= self._next_tick:
            self.tick()
        pending = self._pending
        if not pending:
            return True
        count, self._pending, self._waiting = self._waiting, [], 0
        try:
            frame = self._framed(pending)
        except ENCODING_ERRORS as error:
            self._error = f"{type(error).__name__}: {error}"
            frame, count = self._sound_frame(pending, count)
        if self._full or self._failing or not self._write(frame):
            return self._give_up(count)
        self._records += count
        return True

    def _framed(self, runs: list[JournalRun]) -> bytes:
        payload = self._encode(runs)
        return FRAME.pack(MARKER, len(payload), zlib.adler32(payload, self._seed)) + payload

    def _sound_frame(self, runs: list[JournalRun], count: int) -> tuple[bytes, int]:
        """A frame of the records that can be encoded, and how many they are of the count.

        One that cannot (a lone surrogate in a text, say) is dropped and counted, because it would
        fail again, and all others of its turn with it.
        """
        single = [JournalRun.of(record) for run in runs for record in run.records()]
        sound = [run for run in single if self._is_sound(run)]
        self._dropped += count - len(sound)
        return self._framed(sound), len(sound)

    def _is_sound(self, run: JournalRun) -> bool:
        try:
            self._framed([run])
        except ENCODING_ERRORS:
            return False
        return True

    def tick(self) -> None:
        """Once a second: look at the folder, rotate by age, and try again after an error.

        `commit` calls it when it is due; a server calls it from a timer too, so that a process
        without traffic closes its segment in time and one that refuses finds out about new room.
        """
        started = time.monotonic()
        with contextlib.suppress(OSError):
            self._folder = measure_folder(self.folder)
            self._bytes += self._since_look
            self._since_look = 0
            self._room = self.options.max_bytes - self._folder.bytes
        if self._segment and started - self._segment.started >= self.options.segment_seconds:
            self._rotate()
        self._failing = False
        self._judge()
        finished = time.monotonic()
        # A folder of thousands of segments takes milliseconds to look at: do it less often then.
        self._next_tick = finished + max(1.0, 500 * (finished - started))

    def state(self) -> JournalState:
        """The numbers for metrics and readiness."""
        return JournalState(
            records=self._records,
            bytes=self._bytes + self._since_look,
            dropped=self._dropped,
            refused=self._refused,
            folder_bytes=self._folder.bytes + self._since_look,
            folder_segments=self._folder.segments,
            lag_seconds=self._folder.lag_seconds,
            full=self._full,
            last_error=self._error,
        )

    def close(self) -> None:
        """Write what is pending and close the segment; a later append starts a new one."""
        self.commit()
        self._rotate()

    def _write(self, frame: bytes) -> bool:
        segment = self._segment
        try:
            if segment is None:
                segment = self._segment = self._open()
            segment.write(frame)
        except OSError as error:
            # What was written of the data stays as the torn tail of a segment nobody adds to: a
            # reader may have seen whole frames of it already, so it must not be cut off again.
            self._error, self._failing = f"{type(error).__name__}: {error}", True
            self._rotate()
            self._judge()
            return False
        self._error = None
        self._since_look += len(frame)
        if segment.size >= self.options.segment_bytes:
            self._rotate()
        if self._since_look >= self._room:
            self._judge()
        return True

    def _give_up(self, count: int) -> bool:
        if self.options.when_full == "drop":
            self._dropped += count
            return True
        self._refused += count
        return False

    def _judge(self) -> None:
        """Whether the folder is full. If so the segment is closed, for ingest takes only those."""
        self._full = self._since_look >= self._room
        if self._full:
            self._rotate()
        self._refusing = self.options.when_full == "refuse" and (self._full or self._failing)

    def _rotate(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _open(self) -> _OpenSegment:
        self._sequence += 1
        name = f"{time.time_ns() // 1000:016d}-{self._writer}-{self._sequence:06d}{SUFFIX}"
        return _OpenSegment(self.folder, name, HEADER.pack(MAGIC, self._seed))

    def _try_out(self) -> None:
        """Make the folder, write and lock a file in it, and clear away dead processes' drafts."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for draft in self.folder.glob(f"*{DRAFT}"):
                _remove_dead(draft)
            trial = _OpenSegment(self.folder, f"trial-{self._writer}", b"")
            trial.close()
            trial.path.unlink()
        except OSError as error:
            raise SettingsError(
                f"The journal folder {self.folder} cannot be used: {error}",
                remedy="Give a writable folder on a local file system.",
            ) from error


def is_sampled(id: str, share: float) -> bool:
    """Whether the share of requests that is recorded holds the prediction of that id.

    The id alone decides, so that what a champion and its challenger answered under the same id is
    recorded of both or of neither.
    """
    return share >= 1.0 or zlib.crc32(id.encode()) < share * 2**32


class _OpenSegment:
    """The segment this process writes, locked for as long as it is open.

    It gets its name only when it is locked and has its header, so that no reader can take a new
    segment for a closed one.
    """

    def __init__(self, folder: Path, name: str, header: bytes) -> None:
        self.path = folder / name
        draft = folder / f"{name}{DRAFT}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(draft, flags, 0o640)
        # Also where the journal is dropped without an end: its segment must not stay locked.
        self._release = weakref.finalize(self, os.close, self._descriptor)
        self.size = 0
        self.started = time.monotonic()
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.write(header)
            draft.rename(self.path)
        except OSError:
            self.close()
            draft.unlink(missing_ok=True)
            raise

    def write(self, data: bytes) -> None:
        """Write all of the data; a short write is continued."""
        size = len(data)
        written = os.write(self._descriptor, data)
        while written < size:
            written += os.write(self._descriptor, data[written:])
        self.size += size

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._release()


def _remove_dead(draft: Path) -> None:
    """Delete a draft whose process is gone; its file holds no record yet.

    The age covers the instant between another process's making of a draft and its lock.
    """
    with contextlib.suppress(FileNotFoundError), draft.open("rb") as file:
        aged = time.time() - os.fstat(file.fileno()).st_mtime > DRAFT_SECONDS
        if aged and is_closed(file.fileno()):
            draft.unlink(missing_ok=True)

"""The journal's writer: every acknowledged prediction is on disk before its answer leaves.

    journal = Journal(folder, JournalOptions(when_full="refuse"))
    if journal.refusing: ...answer 503 before doing any work...
    journal.append(id=..., time=..., model=..., version=..., ...)   # any number per loop iteration
    written = journal.commit()                                      # one write(2) for all of them
    ...release the pending answers if `written`, else answer 503 instead...

A process appends to its own segments, and any number of processes share one folder; the format
is in `frames`, the reader in `segments`. A commit is written, not fsynced: it survives
any end of the process, but not a power failure. See decisions 040, 130 and 131.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from zlib import adler32

import msgspec

from tidemill.errors import SettingsError
from tidemill.serving.journal.frames import (
    INVERSION,
    MARKER,
    pack_frame_head,
    segment_header,
    segment_name,
)
from tidemill.serving.journal.open_segment import OpenSegment, remove_dead_drafts
from tidemill.serving.journal.policy import JournalOptions, RecordingRule, is_sampled
from tidemill.serving.journal.record_types import Encoding, JournalRecord, JournalRun
from tidemill.serving.journal.segments import FolderSize, measure_folder
from tidemill.signature import Label, Value

ENCODING_ERRORS = (UnicodeError, OverflowError, TypeError, ValueError)


class JournalState(msgspec.Struct, frozen=True):
    """The journal in numbers, for metrics and readiness.

    Attributes:
        records, bytes: Written by this process.
        dropped: Records dropped by this process under the policy `drop`.
        refused: Requests that this process answered with 503 under the policy `refuse`.
        folder_bytes, folder_segments: Of all processes, as last measured.
        lag_seconds: Age of the oldest closed segment that ingest has not taken, as last measured.
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
    """Writes records. Not thread-safe: use it from one thread, normally the event loop's.

    Args:
        folder: Where segments are written, on a local file system; created if missing.
        options: Limits, policy, sampling, and whether inputs are recorded.
        writer: A short name of this process for the file names, such as `w1`.

    Raises:
        SettingsError: The folder is not writable, or its file system has no file locks.
    """

    def __init__(
        self, folder: Path, options: JournalOptions | None = None, *, writer: str = "w"
    ) -> None:
        self.folder = folder
        self.options = options or JournalOptions()
        self._writer = f"{writer}-{os.getpid()}"
        self._seed = secrets.randbits(32)
        self._encode = msgspec.msgpack.Encoder().encode
        self._rules = dict(self.options.models)
        self._pending: list[JournalRun] = []
        self._pending_requests = 0
        self._segment: OpenSegment | None = None
        self._sequence = 0
        self._records = self._bytes = self._dropped = self._refused = 0
        self._measured = FolderSize(0, 0, 0.0)
        self._unmeasured = 0  # bytes written since the folder was measured ...
        self._room = self.options.max_bytes  # ... when this many more were allowed
        self._full = self._failing = self._refusing = False
        self._error: str | None = None
        self._next_tick = 0.0
        self._prepare_folder()
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

    def rule(self, model: str) -> RecordingRule:
        """What is recorded of a model."""
        return self._rules.get(model) or self.options.rule

    def add(self, run: JournalRun) -> None:
        """Buffer a run as it is; the caller has applied the model's rule."""
        self._pending.append(run)
        self._pending_requests += len(run.ids)

    def commit(self) -> bool:
        """Write the buffer with one system call.

        Returns:
            True if the answers appended since the last commit may leave: each record is on disk,
            or was not sampled, or was dropped under the policy `drop`. False if each of them must
            be answered with 503 instead.
        """
        if time.monotonic() >= self._next_tick:
            self.tick()
        pending = self._pending
        if not pending:
            return True
        count, self._pending, self._pending_requests = self._pending_requests, [], 0
        try:
            frame = self._frame(pending)
        except ENCODING_ERRORS as error:
            self._error = f"{type(error).__name__}: {error}"
            frame, count = self._frame_of_encodable(pending, count)
        if self._full or self._failing or not self._write(frame):
            return self._give_up(count)
        self._records += count
        return True

    def tick(self) -> None:
        """Measure the folder, close an old segment, and try again after a write error.

        Due once a second. `commit` calls it when it is due; a server also calls it from a timer,
        so that a process without traffic closes its segment in time, and one that refuses notices
        when there is room again.
        """
        started = time.monotonic()
        with contextlib.suppress(OSError):
            self._measured = measure_folder(self.folder)
            self._bytes += self._unmeasured
            self._unmeasured = 0
            self._room = self.options.max_bytes - self._measured.bytes
        if self._segment and started - self._segment.started >= self.options.segment_seconds:
            self._rotate()
        self._failing = False
        self._update_full()
        finished = time.monotonic()
        # Measuring a folder of thousands of segments takes milliseconds: do it less often then.
        self._next_tick = finished + max(1.0, 500 * (finished - started))

    def state(self) -> JournalState:
        """The numbers for metrics and readiness."""
        return JournalState(
            records=self._records,
            bytes=self._bytes + self._unmeasured,
            dropped=self._dropped,
            refused=self._refused,
            folder_bytes=self._measured.bytes + self._unmeasured,
            folder_segments=self._measured.segments,
            lag_seconds=self._measured.lag_seconds,
            full=self._full,
            last_error=self._error,
        )

    def close(self) -> None:
        """Write what is pending and close the segment; a later append starts a new one."""
        self.commit()
        self._rotate()

    def _frame(self, runs: list[JournalRun]) -> bytes:
        payload = self._encode(runs)
        size = len(payload)
        return (
            pack_frame_head(MARKER, size, size ^ INVERSION, adler32(payload, self._seed)) + payload
        )

    def _frame_of_encodable(self, runs: list[JournalRun], count: int) -> tuple[bytes, int]:
        """A frame of those records that can be encoded, and their number out of `count`.

        A record that cannot be encoded (it contains a lone surrogate, for example) is dropped and
        counted: it would fail again, and with it every other record of the same commit.
        """
        single = [JournalRun.of(record) for run in runs for record in run.records()]
        encodable = [run for run in single if self._can_encode(run)]
        self._dropped += count - len(encodable)
        return self._frame(encodable), len(encodable)

    def _can_encode(self, run: JournalRun) -> bool:
        try:
            self._frame([run])
        except ENCODING_ERRORS:
            return False
        return True

    def _write(self, frame: bytes) -> bool:
        segment = self._segment
        try:
            if segment is None:
                segment = self._segment = self._open()
            segment.write(frame)
        except OSError as error:
            # Whatever was written stays as the torn tail of a segment that is never appended to
            # again. It must not be cut off: a reader may already have seen whole frames of it.
            self._error, self._failing = f"{type(error).__name__}: {error}", True
            self._rotate()
            self._update_full()
            return False
        self._error = None
        self._unmeasured += len(frame)
        if segment.size >= self.options.segment_bytes:
            self._rotate()
        if self._unmeasured >= self._room:
            self._update_full()
        return True

    def _give_up(self, count: int) -> bool:
        if self.options.when_full == "drop":
            self._dropped += count
            return True
        self._refused += count
        return False

    def _update_full(self) -> None:
        """Check whether the folder is full; if so, close the segment so that ingest can take it."""
        self._full = self._unmeasured >= self._room
        if self._full:
            self._rotate()
        self._refusing = self.options.when_full == "refuse" and (self._full or self._failing)

    def _rotate(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _open(self) -> OpenSegment:
        self._sequence += 1
        stamp = time.time_ns() // 1000
        name = segment_name(stamp, self._writer, self._seed, self._sequence)
        return OpenSegment(self.folder, name, segment_header(self._seed))

    def _prepare_folder(self) -> None:
        """Create the folder, write and lock a file in it, and remove dead processes' drafts."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_dead_drafts(self.folder)
            trial = OpenSegment(self.folder, f"trial-{self._writer}-{self._seed:08x}", b"")
            trial.close()
            trial.path.unlink()
        except OSError as error:
            raise SettingsError(
                f"The journal folder {self.folder} cannot be used: {error}",
                field="TIDEMILL_JOURNAL_DIR",
                remedy="Set it to a writable folder on a local file system.",
            ) from error

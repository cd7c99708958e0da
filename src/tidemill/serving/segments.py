"""What the journal's files hold, and how ingest reads them.

A segment is one file, appended to by one process:

    header   magic (8) | seed (4, random for each process)
    frames   marker (4) | length (4) | CRC32 of the payload, started at the seed (4) | payload

with little-endian integers; a payload is the list of `Record` of one commit, in MessagePack. The
writer holds an exclusive flock on the segment it writes, so a segment is closed exactly when nobody
holds that lock: however the writer ended, the kernel let go of it. Names sort by the time of
creation and never change. The seed keeps a client from hiding a valid frame inside a text that it
sends.

    for segment in segments(folder):
        page = read_segment(segment.path, offset)
        ...store page.records and page.next_offset in one transaction...
        if page.finished: discard(segment.path)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from tidemill.signature import Label, Value

MAGIC = b"TMJRNL1\n"
MARKER = b"\xf5\x9fTM"
SUFFIX = ".journal"
HEADER = struct.Struct("<8sI")
FRAME = struct.Struct("<4sII")
PAGE_BYTES = 4 << 20

Encoding = Literal["none", "f4", "f8", "values"]


class Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One answered request: one row, or the rows of a batch.

    Attributes:
        id: The prediction's id; row `i` of a batch has the id `<id>-<i>` (see `row_ids`). A
            challenger that shadows it answers under the same id, so that one label is for both.
        time: When it was answered, in seconds since the epoch.
        rows: How many rows were predicted.
        encoding: How `features` holds the inputs, columns in the order of the signature: `f4` or
            `f8` for the bytes of a C-ordered little-endian matrix [rows, columns], `values` for a
            list of rows, `none` when inputs are not stored.
        predictions: One label or number a row.
        probabilities: For classifiers the bytes of a little-endian float32 matrix [rows, labels],
            in the order of the signature's labels; None for regressors.
        latency: Seconds from the request's arrival to its answer.
        key_id: Id of the API key; None when keys are off.
        role: `champion`, or `shadow` or `canary` for a challenger's answer.
        sample: The share of requests that is recorded; each record stands for 1 / sample.
    """

    id: str
    time: float
    model: str
    version: str
    rows: int
    encoding: Encoding
    features: bytes | list[list[Value]] | None
    predictions: list[Label]
    probabilities: bytes | None
    latency: float
    request_id: str | None = None
    key_id: str | None = None
    role: str = "champion"
    sample: float = 1.0

    def row_ids(self) -> list[str]:
        """The prediction id of each row: the record's own for one row, `<id>-<i>` in a batch."""
        return [self.id] if self.rows == 1 else [f"{self.id}-{i}" for i in range(self.rows)]

    def inputs(self) -> list[list[Value]] | None:
        """The rows as plain values (NaN stays NaN); None when inputs were not stored."""
        if not isinstance(self.features, bytes):
            return self.features
        matrix = np.frombuffer(self.features, dtype=f"<{self.encoding}")
        rows: list[list[Value]] = matrix.reshape(self.rows, -1).tolist()
        return rows

    def probability_rows(self) -> list[list[float]] | None:
        """The probabilities as [rows][labels]; None for regressors."""
        if self.probabilities is None:
            return None
        matrix = np.frombuffer(self.probabilities, dtype="<f4")
        rows: list[list[float]] = matrix.reshape(self.rows, -1).tolist()
        return rows


class Segment(NamedTuple):
    """A journal file as `segments` found it. `path.name` never changes: the key of its offset."""

    path: Path
    closed: bool
    size: int
    created: float


class Page(NamedTuple):
    """What `read_segment` read: whole, checked records, and where to go on.

    `finished` says that the segment is closed and read to its end, so it can be discarded.
    `damaged` counts bytes that were skipped because they are no valid record.
    """

    records: list[Record]
    next_offset: int
    finished: bool
    damaged: int


class FolderSize(NamedTuple):
    """`lag_seconds`: the age of the oldest closed segment; 0.0 when all closed ones are gone."""

    bytes: int
    segments: int
    lag_seconds: float


def segments(folder: Path) -> list[Segment]:
    """All segments in a folder, oldest first."""
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            closed = is_closed(file.fileno())
            size = os.fstat(file.fileno()).st_size
            found.append(Segment(path, closed, size, created_at(path.name)))
    return found


def read_segment(path: Path, offset: int = 0, *, limit: int = PAGE_BYTES) -> Page:
    """The records from `offset` on, about `limit` bytes of them.

    An unfinished frame at the end of a segment that is still written is left for the next read;
    at the end of a closed one it is a torn tail, skipped and counted. So is damage in the middle of
    a closed segment: reading goes on at the next valid frame.

    Args:
        offset: 0, or the `next_offset` of an earlier page of the same segment.

    Raises:
        FileNotFoundError: The segment was discarded.
    """
    with path.open("rb") as file:
        closed = is_closed(file.fileno())
        size = os.fstat(file.fileno()).st_size
        seed = _read_seed(file.read(HEADER.size))
        if seed is None:
            return Page([], size if closed else offset, closed, size if closed else 0)
        start = max(offset, HEADER.size)
        whole = False
        while True:
            file.seek(start)
            data = file.read(size - start if whole else min(limit, size - start))
            page = _parse(data, start, seed, closed and start + len(data) >= size)
            if page.next_offset > start or start + len(data) >= size:
                return page
            whole = True


def read_folder(folder: Path) -> Iterator[Record]:
    """Every record in a folder, segment by segment: for tools and tests."""
    for segment in segments(folder):
        page = read_segment(segment.path)
        while page.records:
            yield from page.records
            page = read_segment(segment.path, page.next_offset)


def discard(path: Path) -> None:
    """Delete a segment whose page was `finished`."""
    path.unlink(missing_ok=True)


def measure_folder(folder: Path) -> FolderSize:
    """The size of all segments, and the lag of ingest."""
    with os.scandir(folder) as entries:
        sizes = {e.name: e.stat().st_size for e in entries if e.name.endswith(SUFFIX)}
    lag = 0.0
    for name in sorted(sizes):
        with contextlib.suppress(FileNotFoundError), (folder / name).open("rb") as file:
            if is_closed(file.fileno()):
                lag = max(0.0, time.time() - created_at(name))
                break
    return FolderSize(sum(sizes.values()), len(sizes), lag)


def created_at(name: str) -> float:
    """When the segment of that name was started, in seconds since the epoch."""
    stamp = name.partition("-")[0]
    return int(stamp) / 1e6 if stamp.isdigit() else 0.0


def is_closed(descriptor: int) -> bool:
    """Whether no writer holds the open file: a probe that takes the lock for an instant."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def _read_seed(header: bytes) -> int | None:
    if len(header) < HEADER.size:
        return None
    magic, seed = HEADER.unpack(header)
    return int(seed) if magic == MAGIC else None


_decode = msgspec.msgpack.Decoder(list[Record]).decode


def _parse(data: bytes, start: int, seed: int, last: bool) -> Page:
    """The frames in `data`, which begins at offset `start`; `last` when nothing can follow it."""
    records: list[Record] = []
    view = memoryview(data)
    position = damaged = 0
    while position < len(data):
        end = _frame_end(view, position, seed)
        if end is None:
            if not last:
                break
            following = _next_frame(data, view, position + 1, seed)
            damaged += following - position
            position = following
            continue
        try:
            records.extend(_decode(view[position + FRAME.size : end]))
        except msgspec.MsgspecError:
            damaged += end - position
        position = end
    return Page(records, start + position, last and position >= len(data), damaged)


def _frame_end(view: memoryview, position: int, seed: int) -> int | None:
    """Where the frame at `position` ends; None when there is no whole and valid one."""
    body = position + FRAME.size
    if body > len(view):
        return None
    marker, length, checksum = FRAME.unpack_from(view, position)
    end: int = body + length
    if marker != MARKER or end > len(view) or zlib.crc32(view[body:end], seed) != checksum:
        return None
    return end


def _next_frame(data: bytes, view: memoryview, position: int, seed: int) -> int:
    """Where the next valid frame starts, or the end of the data."""
    found = data.find(MARKER, position)
    while found >= 0:
        if _frame_end(view, found, seed) is not None:
            return found
        found = data.find(MARKER, found + 1)
    return len(data)

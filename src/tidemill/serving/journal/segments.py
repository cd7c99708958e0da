"""The journal's file format, and how ingest reads it.

A segment is one file, appended to by one process:

    header   magic (8) | seed (4, random for each process)
    frames   marker (4) | length (4) | Adler-32 of the payload, started at the seed (4) | payload

with little-endian integers. A payload is the list of `JournalRun` of one commit, in MessagePack.
(Segments of the first format have another magic: the payload is a list of `JournalRecord` and its
checksum a CRC-32.)
The writer holds an exclusive flock on the segment it is writing, so a segment is closed exactly
when that lock is free: the kernel releases it however the writer ends. File names sort by creation
time and never change. The seed prevents a client from hiding a valid frame inside a string that it
sends.

    for segment in segments(folder):
        page = read_segment(segment.path, offset)
        ...store page.records and page.next_offset in one transaction...
        if page.finished: discard(segment.path)

See decisions 040 and 130.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from tidemill.serving.journal.record_types import JournalRecord, JournalRun

MAGIC = b"TMJRNL2\n"
OLD_MAGIC = b"TMJRNL1\n"
FAMILY = b"TMJRNL"
MARKER = b"\xf5\x9fTM"
SUFFIX = ".journal"
HEADER = struct.Struct("<8sI")
FRAME = struct.Struct("<4sII")
PAGE_BYTES = 4 << 20


class SegmentFormat(NamedTuple):
    """How segments with one magic are read: the checksum and the decoder of a payload."""

    checksum: Callable[[memoryview, int], int]
    decode: Callable[[memoryview], list[JournalRecord]]


class Segment(NamedTuple):
    """A journal file as `segments` found it.

    Attributes:
        path: Its name never changes, so ingest stores the offset under it.
        size: In bytes.
        created: In seconds since the epoch.
    """

    path: Path
    closed: bool
    size: int
    created: float


class SegmentPage(NamedTuple):
    """One read of a segment.

    Attributes:
        records: Whole, checked records.
        next_offset: Where the next read starts.
        finished: The segment is closed and read to its end, so it can be discarded.
        damaged: Number of bytes skipped because they are not a valid record.
    """

    records: list[JournalRecord]
    next_offset: int
    finished: bool
    damaged: int


class FolderSize(NamedTuple):
    """The size of a journal folder.

    Attributes:
        lag_seconds: Age of the oldest closed segment; 0.0 if ingest has taken all closed ones.
    """

    bytes: int
    segments: int
    lag_seconds: float


def segments(
    folder: Path, unreadable: Callable[[Path, OSError], object] = lambda path, error: None
) -> list[Segment]:
    """All segments in a folder that can be opened, oldest first.

    Args:
        unreadable: Called with the path and the error of each segment that cannot be opened.
    """
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            with path.open("rb") as file:
                closed = is_closed(file.fileno())
                size = os.fstat(file.fileno()).st_size
                found.append(Segment(path, closed, size, created_at(path.name)))
        except FileNotFoundError:
            continue  # discarded in the meantime
        except OSError as error:
            unreadable(path, error)
    return found


def read_segment(path: Path, offset: int = 0, *, limit: int = PAGE_BYTES) -> SegmentPage:
    """Read the records from `offset` on, about `limit` bytes of them.

    An unfinished frame at the end of an open segment is left for the next read. At the end of a
    closed one it is a torn tail, which is skipped and counted as damaged. So is damage in the
    middle of a closed segment: reading resumes at the next valid frame.

    Args:
        offset: 0, or the `next_offset` of an earlier page of the same segment.

    Raises:
        FileNotFoundError: The segment was discarded.
        OSError: The segment cannot be read, or was written by a newer Tidemill.
    """
    with path.open("rb") as file:
        closed = is_closed(file.fileno())
        size = os.fstat(file.fileno()).st_size
        header = _read_header(file.read(HEADER.size))
        if header is None:
            return SegmentPage([], size if closed else offset, closed, size if closed else 0)
        seed, format = header
        start = max(offset, HEADER.size)
        whole = False
        while True:
            file.seek(start)
            data = file.read(size - start if whole else min(limit, size - start))
            page = _parse(data, start, seed, format, closed and start + len(data) >= size)
            if page.next_offset > start or start + len(data) >= size:
                return page
            whole = True


def discard(path: Path) -> None:
    """Delete a segment whose last page was `finished`."""
    path.unlink(missing_ok=True)


def measure_folder(folder: Path) -> FolderSize:
    """Measure the size of all segments and the lag of ingest."""
    with os.scandir(folder) as entries:
        sizes = {e.name: e.stat().st_size for e in entries if e.name.endswith(SUFFIX)}
    lag = 0.0
    for name in sorted(sizes):
        with contextlib.suppress(OSError), (folder / name).open("rb") as file:
            if is_closed(file.fileno()):
                lag = max(0.0, time.time() - created_at(name))
                break
    return FolderSize(sum(sizes.values()), len(sizes), lag)


def created_at(name: str) -> float:
    """When the segment with this name was created, in seconds since the epoch."""
    stamp = name.partition("-")[0]
    return int(stamp) / 1e6 if stamp.isdigit() else 0.0


def is_closed(descriptor: int) -> bool:
    """Whether no writer holds the lock of an open file; takes a shared lock for an instant."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def _read_header(header: bytes) -> tuple[int, SegmentFormat] | None:
    """The seed and the format; None if this is not a segment's header."""
    if len(header) < HEADER.size:
        return None
    magic, seed = HEADER.unpack(header)
    format = FORMATS.get(magic)
    if format is None and magic.startswith(FAMILY):
        raise OSError("it was written by a newer Tidemill")  # and must not be discarded
    return (seed, format) if format else None


def _decode_runs(payload: memoryview) -> list[JournalRecord]:
    return [record for run in _RUNS(payload) for record in run.records()]


_RUNS = msgspec.msgpack.Decoder(list[JournalRun]).decode
FORMATS = {
    MAGIC: SegmentFormat(zlib.adler32, _decode_runs),
    OLD_MAGIC: SegmentFormat(zlib.crc32, msgspec.msgpack.Decoder(list[JournalRecord]).decode),
}


def _parse(data: bytes, start: int, seed: int, format: SegmentFormat, last: bool) -> SegmentPage:
    """Parse the frames in `data`, which begins at offset `start`.

    Args:
        last: Nothing can follow this data: the segment is closed.
    """
    records: list[JournalRecord] = []
    view = memoryview(data)
    position = damaged = 0
    while position < len(data):
        end = _frame_end(view, position, seed, format)
        if end is None:
            if not last:
                break
            following = _next_frame(data, view, position + 1, seed, format)
            damaged += following - position
            position = following
            continue
        try:
            records.extend(format.decode(view[position + FRAME.size : end]))
        except (msgspec.MsgspecError, ValueError):
            damaged += end - position
        position = end
    return SegmentPage(records, start + position, last and position >= len(data), damaged)


def _frame_end(view: memoryview, position: int, seed: int, format: SegmentFormat) -> int | None:
    """Where the frame at `position` ends; None if there is no complete, valid frame."""
    body = position + FRAME.size
    if body > len(view):
        return None
    marker, length, checksum = FRAME.unpack_from(view, position)
    end: int = body + length
    if marker != MARKER or end > len(view) or format.checksum(view[body:end], seed) != checksum:
        return None
    return end


def _next_frame(
    data: bytes, view: memoryview, position: int, seed: int, format: SegmentFormat
) -> int:
    """Where the next valid frame starts, or the end of the data."""
    found = data.find(MARKER, position)
    while found >= 0:
        if _frame_end(view, found, seed, format) is not None:
            return found
        found = data.find(MARKER, found + 1)
    return len(data)

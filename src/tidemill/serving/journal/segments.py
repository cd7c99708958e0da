"""What the journal's files hold, and how ingest reads them.

A segment is one file, appended to by one process:

    header   magic (8) | seed (4, random for each process)
    frames   marker (4) | length (4) | Adler-32 of the payload, started at the seed (4) | payload

with little-endian integers; a payload is the list of `JournalRun` of one commit, in MessagePack.
(Segments of the first version have another magic: a payload is the list of `JournalRecord`, its
checksum a CRC-32.)
The writer holds an exclusive flock on the segment it writes, so a segment is closed exactly when
nobody holds that lock: however the writer ended, the kernel let go of it. Names sort by the time of
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from tidemill.serving.journal.records import JournalRecord, JournalRun

MAGIC = b"TMJRNL2\n"
OLD_MAGIC = b"TMJRNL1\n"
FAMILY = b"TMJRNL"
MARKER = b"\xf5\x9fTM"
SUFFIX = ".journal"
HEADER = struct.Struct("<8sI")
FRAME = struct.Struct("<4sII")
PAGE_BYTES = 4 << 20


class SegmentFormat(NamedTuple):
    """How segments of one magic are read: a payload's checksum, and its records."""

    checksum: Callable[[memoryview, int], int]
    decode: Callable[[memoryview], list[JournalRecord]]


class Segment(NamedTuple):
    """A journal file as `segments` found it. `path.name` never changes: the key of its offset."""

    path: Path
    closed: bool
    size: int
    created: float


class SegmentPage(NamedTuple):
    """What `read_segment` read: whole, checked records, and where to go on.

    `finished` says that the segment is closed and read to its end, so it can be discarded.
    `damaged` counts bytes that were skipped because they are no valid record.
    """

    records: list[JournalRecord]
    next_offset: int
    finished: bool
    damaged: int


class FolderSize(NamedTuple):
    """`lag_seconds`: the age of the oldest closed segment; 0.0 when all closed ones are gone."""

    bytes: int
    segments: int
    lag_seconds: float


def segments(
    folder: Path, unreadable: Callable[[Path, OSError], object] = lambda path, error: None
) -> list[Segment]:
    """All segments in a folder that can be opened, oldest first.

    Args:
        unreadable: Hears of those that cannot.
    """
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            with path.open("rb") as file:
                closed = is_closed(file.fileno())
                size = os.fstat(file.fileno()).st_size
                found.append(Segment(path, closed, size, created_at(path.name)))
        except FileNotFoundError:
            continue  # it was discarded meanwhile
        except OSError as error:
            unreadable(path, error)
    return found


def read_segment(path: Path, offset: int = 0, *, limit: int = PAGE_BYTES) -> SegmentPage:
    """The records from `offset` on, about `limit` bytes of them.

    An unfinished frame at the end of a segment that is still written is left for the next read;
    at the end of a closed one it is a torn tail, skipped and counted. So is damage in the middle of
    a closed segment: reading goes on at the next valid frame.

    Args:
        offset: 0, or the `next_offset` of an earlier page of the same segment.

    Raises:
        FileNotFoundError: The segment was discarded.
        OSError: It cannot be read, or only by a newer Tidemill.
    """
    with path.open("rb") as file:
        closed = is_closed(file.fileno())
        size = os.fstat(file.fileno()).st_size
        header = _read_header(file.read(HEADER.size))
        if header is None:
            return SegmentPage([], size if closed else offset, closed, size if closed else 0)
        seed, version = header
        start = max(offset, HEADER.size)
        whole = False
        while True:
            file.seek(start)
            data = file.read(size - start if whole else min(limit, size - start))
            page = _parse(data, start, seed, version, closed and start + len(data) >= size)
            if page.next_offset > start or start + len(data) >= size:
                return page
            whole = True


def read_folder(folder: Path) -> Iterator[JournalRecord]:
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
        with contextlib.suppress(OSError), (folder / name).open("rb") as file:
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


def _read_header(header: bytes) -> tuple[int, SegmentFormat] | None:
    """The seed and the version; None when it is no segment's header."""
    if len(header) < HEADER.size:
        return None
    magic, seed = HEADER.unpack(header)
    version = VERSIONS.get(magic)
    if version is None and magic.startswith(FAMILY):
        raise OSError("it was written by a newer Tidemill")  # and must not be thrown away
    return (seed, version) if version else None


def _decode_runs(payload: memoryview) -> list[JournalRecord]:
    return [record for run in _RUNS(payload) for record in run.records()]


_RUNS = msgspec.msgpack.Decoder(list[JournalRun]).decode
VERSIONS = {
    MAGIC: SegmentFormat(zlib.adler32, _decode_runs),
    OLD_MAGIC: SegmentFormat(zlib.crc32, msgspec.msgpack.Decoder(list[JournalRecord]).decode),
}


def _parse(data: bytes, start: int, seed: int, version: SegmentFormat, last: bool) -> SegmentPage:
    """The frames in `data`, which begins at offset `start`; `last` when nothing can follow it."""
    records: list[JournalRecord] = []
    view = memoryview(data)
    position = damaged = 0
    while position < len(data):
        end = _frame_end(view, position, seed, version)
        if end is None:
            if not last:
                break
            following = _next_frame(data, view, position + 1, seed, version)
            damaged += following - position
            position = following
            continue
        try:
            records.extend(version.decode(view[position + FRAME.size : end]))
        except (msgspec.MsgspecError, ValueError):
            damaged += end - position
        position = end
    return SegmentPage(records, start + position, last and position >= len(data), damaged)


def _frame_end(view: memoryview, position: int, seed: int, version: SegmentFormat) -> int | None:
    """Where the frame at `position` ends; None when there is no whole and valid one."""
    body = position + FRAME.size
    if body > len(view):
        return None
    marker, length, checksum = FRAME.unpack_from(view, position)
    end: int = body + length
    if marker != MARKER or end > len(view) or version.checksum(view[body:end], seed) != checksum:
        return None
    return end


def _next_frame(
    data: bytes, view: memoryview, position: int, seed: int, version: SegmentFormat
) -> int:
    """Where the next valid frame starts, or the end of the data."""
    found = data.find(MARKER, position)
    while found >= 0:
        if _frame_end(view, found, seed, version) is not None:
            return found
        found = data.find(MARKER, found + 1)
    return len(data)

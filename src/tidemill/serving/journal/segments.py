"""How ingest reads the journal's segments; their format is in `frames`.

A writer holds an exclusive flock on the segment it is writing, so a segment is closed exactly when
that lock is free: the kernel releases it however the writer ends. File names sort by creation time
and never change.

    for segment in segments(folder):
        page = read_segment(segment.path, offset)
        if page.damaged: set_aside(segment.path)
        ...store page.records and page.next_offset in one transaction...
        if page.finished: discard(segment.path)

See decisions 040, 130 and 194.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from tidemill.serving.journal.frames import (
    FRAME,
    HEADER,
    SUFFIX,
    SegmentHead,
    identify,
)
from tidemill.serving.journal.record_types import JournalRecord

DAMAGED = "damaged"
PAGE_BYTES = 4 << 20
SEARCHES = 16  # a damaged segment is searched for frames no more often than this


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
        torn: Number of bytes at the end of a closed segment whose frame is incomplete. They were
            never acknowledged.
    """

    records: list[JournalRecord]
    next_offset: int
    finished: bool
    damaged: int = 0
    torn: int = 0


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

    In an open segment, reading ends at the last complete frame. In a closed one an incomplete frame
    at the end is skipped as torn, and anything else that is not a frame as damaged; reading resumes
    at the next valid frame.

    Args:
        offset: 0, or the `next_offset` of an earlier page of the same segment.

    Raises:
        FileNotFoundError: The segment was discarded.
        OSError: The segment cannot be read, or was written by a newer Tidemill.
    """
    with path.open("rb") as file:
        closed = is_closed(file.fileno())
        size = os.fstat(file.fileno()).st_size
        head = identify(path.name, file.read(HEADER.size))
        start = max(offset, head.start) if head else offset
        page = (
            _read_intact(file, (start, size), limit, head)
            if head
            else SegmentPage([], start, False)
        )
        if page.next_offset > start or not closed or size <= start:
            return page._replace(finished=closed and page.next_offset >= size)
        if head is None:
            return SegmentPage([], size, True, damaged=size - start)
        file.seek(start)
        return _read_damaged(file.read(), start, max(limit, size // SEARCHES), head)


def set_aside(path: Path) -> Path:
    """Keep a segment in the folder `damaged`, also when it is discarded from the journal's.

    Raises:
        OSError: The file system has no hard links, or refuses this one.
    """
    kept = path.parent / DAMAGED / path.name
    kept.parent.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.link(path, kept)
    return kept


def damaged_segments(folder: Path) -> list[Path]:
    """The segments of a journal that were set aside, oldest first."""
    return sorted((folder / DAMAGED).glob(f"*{SUFFIX}"))


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


def _read_intact(
    file: BinaryIO, extent: tuple[int, int], limit: int, head: SegmentHead
) -> SegmentPage:
    """The valid frames from the start of the extent to the first place where there is none."""
    start, size = extent
    data = _read_at(file, start, max(limit, FRAME.size))
    end = head.frame_end(memoryview(data), 0)
    if end is not None and len(data) < end <= size - start:
        data = _read_at(file, start, end)
    view, records, position, damaged = memoryview(data), list[JournalRecord](), 0, 0
    while (end := head.intact_end(view, position)) is not None:
        found = _decode(head, view, position, end)
        damaged += 0 if found is not None else end - position
        records += found or []
        position = end
    return SegmentPage(records, start + position, False, damaged)


def _read_damaged(data: bytes, start: int, limit: int, head: SegmentHead) -> SegmentPage:
    """The valid frames in the rest of a closed segment, about `limit` bytes of them.

    Args:
        data: From the offset `start` to the end.
    """
    view = memoryview(data)
    records: list[JournalRecord] = []
    position = damaged = 0
    for begin, end in head.frames(data):
        if begin < position or (found := _decode(head, view, begin, end)) is None:
            continue
        damaged += begin - position
        records += found
        position = end
        if position >= limit:
            return SegmentPage(records, start + position, position == len(data), damaged)
    torn = len(data) - position if head.is_torn(view, position) else 0
    damaged += len(data) - position - torn
    return SegmentPage(records, start + len(data), True, damaged, torn)


def _decode(
    head: SegmentHead, view: memoryview, start: int, end: int
) -> list[JournalRecord] | None:
    """The records of a valid frame; None if they contradict each other."""
    try:
        return head.format.decode(view[start + head.format.frame.size : end])
    except (msgspec.MsgspecError, ValueError):
        return None


def _read_at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)

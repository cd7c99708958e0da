"""Counters of one process that other processes can read: doubles in a memory-mapped file.

An increment is a store into shared memory, so the counts of a killed process are not lost, and any
process can sum the counts of all. `<name>.counts` contains the doubles, `<name>.names` one JSON
line per series: [first slot, number of slots, kind, name, labels]. The owner locks its names file,
which tells whether it is alive: counters of dead processes still count, their gauges do not.

See decision 035.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

SLOTS = 1 << 16
Kind = Literal["counter", "gauge", "histogram"]


class Series(NamedTuple):
    """The numbers of one name and set of labels, and whether their process is alive."""

    kind: Kind
    name: str
    labels: dict[str, str]
    values: list[float]
    alive: bool


class SharedCounters:
    """The counters of this process.

    Args:
        folder: Where processes that share a port find each other's counters; None for no sharing.

    Attributes:
        values: The doubles; increment with `counters.values[slot] += 1`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._lines: list[tuple[int, int, Kind, str, dict[str, str]]] = []
        self._next = 0
        if folder is None:
            self._map = mmap.mmap(-1, SLOTS * 8)
            self._names: int | None = None
        else:
            folder.mkdir(parents=True, exist_ok=True)
            stem = folder / f"{os.getpid()}-{secrets.token_hex(4)}"
            self._map = _shared_map(stem.with_suffix(".counts"))
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._names = os.open(stem.with_suffix(".names"), flags, 0o644)
            fcntl.flock(self._names, fcntl.LOCK_EX)
        self.values: memoryview[float] = memoryview(self._map).cast("d")

    def close(self) -> None:
        """Release the lock: for other processes, this one has ended. Values can still change."""
        if self._names is not None:
            os.close(self._names)
            self._names = None

    def allocate(self, kind: Kind, name: str, labels: dict[str, str], width: int = 1) -> int:
        """Reserve `width` new slots for a series; returns the first.

        When all slots are taken, further series share the last ones: a server with unbounded label
        values keeps running without growing.
        """
        start = self._next
        if start + width > SLOTS - 64:
            return SLOTS - 64
        self._next += width
        line = (start, width, kind, name, labels)
        self._lines.append(line)
        if self._names is not None:
            os.write(self._names, msgspec.json.encode(line) + b"\n")
        return start

    def read(self) -> Iterator[Series]:
        """Every series of this process and of the processes that share the folder."""
        if self._folder is None or self._names is None:
            yield from _series(self._lines, self.values, alive=True)
            return
        for path in sorted(self._folder.glob("*.names")):
            with contextlib.suppress(OSError, ValueError):
                yield from _read_file(path)


def remove_dead_processes(folder: Path) -> None:
    """Delete the files of dead processes. Call it when a server starts, before its processes."""
    for path in folder.glob("*.names"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            if not _is_locked(file.fileno()):
                path.with_suffix(".counts").unlink(missing_ok=True)
                path.unlink()


def _shared_map(path: Path) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.ftruncate(descriptor, SLOTS * 8)
        return mmap.mmap(descriptor, SLOTS * 8)
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Whether a live process holds the lock; takes a shared lock for an instant."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _read_file(path: Path) -> Iterator[Series]:
    with path.open("rb") as names:
        alive = _is_locked(names.fileno())
        lines = [line for line in names.read().splitlines(keepends=True) if line.endswith(b"\n")]
    data = path.with_suffix(".counts").read_bytes()
    yield from _series(
        [msgspec.json.decode(line) for line in lines], memoryview(data).cast("d"), alive
    )


def _series(lines: list[Any], values: memoryview[float], alive: bool) -> Iterator[Series]:
    for start, width, kind, name, labels in list(lines):
        yield Series(kind, name, labels, list(values[start : start + width]), alive)

"""Assign separate cores to the servers and to the load generator."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def layout() -> tuple[set[int], set[int]]:
    """Return the cores of the server (the last one) and of the load (the others).

    With a single core both share it. Every server gets one core on any machine, because the
    benchmark compares single processes.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) == 1:
        return set(allowed), set(allowed)
    return {allowed[-1]}, set(allowed[:-1])


def take_precedence(pid: int) -> None:
    """Raise the scheduling priority of a process and its session; without root, do nothing.

    Linux shares the cores between sessions first, so the niceness of the process is not enough.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, -10)
        Path(f"/proc/{pid}/autogroup").write_text("-10")


@contextlib.contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Pin processes started inside the block to these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

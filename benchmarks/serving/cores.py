"""Which cores the servers get and which the load, so that neither takes from the other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def layout() -> tuple[set[int], set[int]]:
    """Cores for the server and for the load: the last one and the rest; the same one if alone.

    Every server gets one core, whatever the machine has, because one process is what is compared.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) == 1:
        return set(allowed), set(allowed)
    return {allowed[-1]}, set(allowed[:-1])


def take_precedence(pid: int) -> None:
    """Let the session of a process go before others on a busy machine; needs root, else nothing.

    Linux shares the cores between sessions first, so the niceness of one process is not enough.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, -10)
        Path(f"/proc/{pid}/autogroup").write_text("-10")


@contextlib.contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Processes started inside stay on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

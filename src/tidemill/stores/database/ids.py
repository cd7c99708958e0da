"""Ids of rows that are listed in the order they were made in."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from threading import Lock


def id_source(clock: Callable[[], int] = time.time_ns) -> Callable[[], str]:
    """A function that gives ids of 32 hexadecimal digits that sort by the time they were made.

    16 digits are the time in nanoseconds, 16 are random. Ids of one process sort in the order they
    were made in, however coarse its clock is and even when it is set back.
    """
    latest, lock = 0, Lock()

    def next_id() -> str:
        nonlocal latest
        with lock:
            latest = max(clock(), latest + 1)
            return f"{latest:016x}{secrets.token_hex(8)}"

    return next_id


new_row_id = id_source()

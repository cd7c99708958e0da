"""Prediction ids: unique across processes and machines, and sorted by time.

An id is 26 hexadecimal digits: 11 for the time in milliseconds, 10 for the process (random), 5 for
a counter. Creating one takes a fifth of a microsecond, a tenth of what a UUID takes.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable

#: Request ids that a client may choose: printable, without spaces, quotes or line breaks.
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


def id_source(clock: Callable[[], float] = time.time) -> Callable[[], str]:
    """A function that returns a new id on each call. Create one per process, after forking."""
    process = os.urandom(5).hex()
    counter = int.from_bytes(os.urandom(2), "big")

    def next_id() -> str:
        nonlocal counter
        counter = (counter + 1) & 0xFFFFF
        return f"{int(clock() * 1000):011x}{process}{counter:05x}"

    return next_id


def trace_id(traceparent: bytes) -> str | None:
    """The trace id of a W3C `traceparent` header; None if the header is invalid."""
    match = TRACEPARENT.fullmatch(traceparent)
    if match is None or traceparent.startswith(b"ff") or not match[1].strip(b"0"):
        return None
    return match[1].decode() if match[2].strip(b"0") else None

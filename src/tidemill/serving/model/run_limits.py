"""Ends runs of ONNX graphs that do not end by themselves. See decisions 204 and 206.

A graph with a loop is found by the names of its operators in the file, wherever they are nested:
in subgraphs and in functions of the model. A chance match in the weights only costs a thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
import time
from typing import Any

from tidemill.errors import UnavailableError

log = logging.getLogger(__name__)

CHECK_SECONDS = 0.1
INLINE_SECONDS = 1.0  # for a run on the event loop; it is then repeated in a thread
STUCK_SECONDS = 30.0  # that a run may stay on the event loop after it was told to end
STUCK_EXIT = os.EX_SOFTWARE
LEAVE_SECONDS = 5.0
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 60.0

LOOPS = ("Loop", "Scan", "If", "SequenceMap", "BeamSearch", "GreedySearch", "Sampling")


def may_loop(model: bytes) -> bool:
    """Whether the ONNX file contains an operator that runs a subgraph; True if it cannot tell."""
    if model[4:8] == b"ORTM":  # ONNX Runtime's own format, which stores names in another way
        return True
    return any(re.search(_operator(name), model) for name in LOOPS)


def _operator(name: str) -> bytes:
    """Matches the field `op_type` (4) with this text; a varint may be longer than necessary."""
    size = bytes([len(name)])
    long_size = bytes([len(name) | 0x80])
    return rb"(?:\x22|\xa2\x80*\x00)(?:%b|%b\x80*\x00)%b" % (
        re.escape(size),
        re.escape(long_size),
        name.encode(),
    )


def on_event_loop() -> bool:
    """Whether this thread runs an event loop, which waits for whatever runs here."""
    return asyncio._get_running_loop() is not None


class RunningGraphs:
    """The runs of this process, which one thread ends when their time is over.

    ONNX Runtime ends a run between two operators. One that stays inside of an operator cannot be
    ended: on the event loop, it ends the process after `STUCK_SECONDS`, since nothing else can.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        """Start anew, as in a forked process, which has no other thread."""
        self._lock = threading.Lock()
        #: When a run began (monotonic), its limit in seconds, and whether it is on the event loop.
        self.now: dict[Any, tuple[float, float, bool]] = {}
        self._overdue: dict[Any, float] = {}  # seconds since it was told to end
        self._thread: threading.Thread | None = None
        self._leaving = False

    def add(self, options: Any, seconds: float) -> None:
        """Set `options.terminate` after some seconds, or when the process shuts down.

        A run on the event loop has `INLINE_SECONDS` at most. When it ends, its options leave `now`.
        """
        self.now[options] = time.monotonic(), seconds, on_event_loop()
        if self._thread is None:
            self._watch()

    def end_all(self) -> None:
        """End what runs now."""
        for options in list(self.now):
            options.terminate = True

    def leave(self) -> None:
        """End the process in `LEAVE_SECONDS` if a run that cannot be ended still keeps it."""
        self.end_all()
        self._leaving = True

    def _watch(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._check_often, daemon=True)
                self._thread.start()

    def _check_often(self) -> None:
        while True:
            time.sleep(CHECK_SECONDS)
            self._check()

    def _check(self) -> None:
        running = list(self.now.items())  # atomic: others add and remove runs
        now = time.monotonic()
        late = {
            options: inline
            for options, (began, limit, inline) in running
            if self._leaving or now - began > (min(limit, INLINE_SECONDS) if inline else limit)
        }
        self._overdue = {o: self._overdue.get(o, 0.0) + CHECK_SECONDS for o in late}
        for options, seconds in self._overdue.items():
            options.terminate = True
            if late[options] and seconds > STUCK_SECONDS:
                log.critical("a run has blocked the event loop and cannot be ended: exiting")
                os._exit(STUCK_EXIT)
            if self._leaving and seconds > LEAVE_SECONDS:
                os._exit(0)


class Overruns:
    """Pauses a model whose runs had to be ended: for 1 s, and for twice as long each time."""

    def __init__(self) -> None:
        self.count = 0
        self._until = 0.0

    def exceeded(self) -> None:
        """A run had to be ended."""
        self._until = time.monotonic() + min(FIRST_PAUSE_SECONDS * 2**self.count, MAX_PAUSE_SECONDS)
        self.count += 1

    def finished(self) -> None:
        """A run ended by itself."""
        self.count = 0

    def check(self, name: str) -> None:
        """Refuse requests during a pause.

        Raises:
            UnavailableError: The model is paused.
        """
        if self.count and (left := self._until - time.monotonic()) > 0:
            raise UnavailableError(
                f"'{name[:100]}' is paused for {left:.0f} s: its last run did not end in time.",
                remedy="Retry later; serve a version whose runs end.",
            )


RUNNING = RunningGraphs()
os.register_at_fork(after_in_child=RUNNING._forget)

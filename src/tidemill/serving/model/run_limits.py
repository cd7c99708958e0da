"""Ends runs of ONNX graphs that may not end by themselves. See decision 204.

A graph with a loop is found by the names of its operators in the file, wherever they are nested:
in subgraphs and in functions of the model. A chance match in the weights only costs a thread.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from typing import Any

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


class RunningGraphs:
    """The runs of this process that can be ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Any] = set()

    @contextlib.contextmanager
    def limit(self, options: Any, seconds: float) -> Iterator[None]:
        """Set `options.terminate` after some seconds, or when the process shuts down."""

        def end() -> None:
            options.terminate = True

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        with self._lock:
            self._running.add(options)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                self._running.discard(options)

    def end_all(self) -> None:
        """End what runs now."""
        with self._lock:
            for options in self._running:
                options.terminate = True


RUNNING = RunningGraphs()

"""One sending process; a module of its own, because a spawned process imports it by name."""

from __future__ import annotations

import random
import signal
from typing import Any

from benchmarks.fuzz.client import Requests, run_threads
from benchmarks.fuzz.control_plane import ControlRequests
from benchmarks.fuzz.data_plane import DataRequests

THREADS = 4
Shape = dict[str, Any]  # plane, port, key and seed; for the control plane document and session


def send_from_process(shape: Shape, seed: int, count: int, sink: Any) -> None:
    """Send `count` requests and put the `Counts` into the pipe `sink`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    make: list[tuple[int, Requests, random.Random, int]] = []
    for thread in range(THREADS):
        drawn = random.Random(f"{shape['seed']}-{seed}-{thread}")
        requests: Requests
        if shape["plane"] == "data":
            requests = DataRequests(drawn, shape["key"])
        else:
            requests = ControlRequests(drawn, shape["document"], shape["key"], shape["session"])
        make.append((shape["port"], requests, drawn, count // THREADS))
    data = shape["plane"] == "data"
    sink.send(run_threads(make, batch=64 if data else 12, pool=3000 if data else 400))

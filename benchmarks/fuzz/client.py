"""Sends pipelined requests over many connections and counts the responses by status."""

from __future__ import annotations

import contextlib
import random
import re
import select
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [ -~]*\r\n")
CONNECT_SECONDS = 30.0
SILENT_SECONDS = 60.0  # for an answer that must come
PATIENCE_SECONDS = 0.2  # for an answer to what need not be a request
SAMPLES = 40


class Requests(Protocol):
    """Draws requests as raw bytes."""

    def draw(self) -> bytes: ...

    def broken(self) -> bytes: ...


@dataclass
class Counts:
    """What was sent and answered.

    Attributes:
        samples: Status, request and answer of some server errors.
        silent: Complete requests without an answer: the connection was closed, or the server hangs.
    """

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    samples: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    silent: int = 0
    hung: list[bytes] = field(default_factory=list)

    def add(self, other: Counts) -> None:
        self.sent += other.sent
        self.statuses += other.statuses
        self.silent += other.silent
        self.samples = (self.samples + other.samples)[:SAMPLES]
        self.hung = (self.hung + other.hung)[:SAMPLES]


def send_all(
    port: int, requests: Requests, drawn: random.Random, count: int, *, batch: int, pool: int
) -> Counts:
    """Send a number of requests over one connection after another.

    Args:
        batch: At most so many requests on one connection.
        pool: So many requests are drawn and then sent in many combinations.
    """
    total = Counts()
    ready: list[bytes] = []
    while total.sent < count:
        fresh = max(1, batch // 32) if len(ready) >= pool else batch
        ready += [requests.draw() for _ in range(fresh)]
        del ready[: max(0, len(ready) - pool)]
        chosen = drawn.choices(ready, k=drawn.randint(1, batch))
        broken = requests.broken() if drawn.random() < 0.08 else None
        _exchange(port, chosen, broken, total)
    return total


def _exchange(port: int, chosen: list[bytes], broken: bytes | None, total: Counts) -> None:
    data = b"".join(chosen) + (broken or b"")
    try:
        with socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS) as connection:
            received, hung = _talk(connection, data, len(chosen), broken is not None)
    except OSError:
        received, hung = b"", False
    found = list(STATUS.finditer(received))
    total.sent += len(chosen) + (broken is not None)
    total.silent += max(0, len(chosen) - len(found))
    if hung and len(found) < len(chosen):
        total.hung.append(chosen[len(found)])
    sent = [*chosen, broken or b""]
    for number, match in enumerate(found):
        status = int(match[1])
        total.statuses[status] += 1
        if status >= 500 and len(total.samples) < SAMPLES:
            answer = received[match.start() : match.start() + 600]
            total.samples.append((status, sent[min(number, len(sent) - 1)], answer))


def _talk(
    connection: socket.socket, data: bytes, expected: int, broken: bool
) -> tuple[bytes, bool]:
    """Send and receive at the same time; whether the server went silent is the second value."""
    connection.setblocking(False)
    received, view = bytearray(), memoryview(data)
    last, answered = time.monotonic(), 0
    while True:
        complete = answered >= expected and not view
        patience = PATIENCE_SECONDS if complete else SILENT_SECONDS
        if complete and not broken:
            return bytes(received), False
        readable, writable, _ = select.select([connection], [connection] if view else [], [], 0.1)
        with contextlib.suppress(BlockingIOError):
            if writable:
                try:
                    view = view[connection.send(view[:65536]) :]
                except (BrokenPipeError, ConnectionResetError):
                    view = view[len(view) :]
            if readable:
                try:
                    part = connection.recv(1 << 18)
                except ConnectionResetError:
                    part = b""
                if not part:
                    return bytes(received), False
                last = time.monotonic()
                received += part
                answered += part.count(b"HTTP/1.1 ")
        if time.monotonic() - last > patience:
            return bytes(received), not complete


def run_threads(
    make: list[tuple[int, Requests, random.Random, int]], *, batch: int, pool: int
) -> Counts:
    """Send from one thread for each (port, requests, random numbers, count)."""
    total, lock = Counts(), threading.Lock()

    def work(port: int, requests: Requests, drawn: random.Random, count: int) -> None:
        counts = send_all(port, requests, drawn, count, batch=batch, pool=pool)
        with lock:
            total.add(counts)

    threads = [threading.Thread(target=work, args=each) for each in make]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return total

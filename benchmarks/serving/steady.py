"""An open-loop load: requests at scheduled times over keep-alive connections.

Latencies are measured from the scheduled time, so a stalled server is charged for every request
that it delays. Runs in its own process, separate from the server.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Steady:
    """Latencies in seconds of the requests answered with 200, and the number of failures."""

    latencies: list[float] = field(default_factory=list)
    failed: int = 0


def requests_of(paths: Sequence[str], bodies: Sequence[bytes], key: str) -> list[bytes]:
    """Build complete HTTP requests, one for each path and body."""
    head = "POST %s HTTP/1.1\r\nhost: t\r\nx-api-key: %s\r\ncontent-length: %d\r\n\r\n"
    pairs = [(p, bodies[i % len(bodies)]) for i, p in enumerate(paths)]
    return [(head % (path, key, len(body))).encode() + body for path, body in pairs]


def steady(
    port: int, requests: Sequence[bytes], *, rate: float, seconds: float, connections: int = 16
) -> Steady:
    """Send `rate` requests per second in total, evenly spaced on each connection."""
    found = Steady()

    async def all_of_them() -> None:
        begin = time.perf_counter() + 0.05
        await asyncio.gather(
            *(_ask(port, requests, found, begin, rate / connections, seconds, i / connections, i)
              for i in range(connections))
        )  # fmt: skip

    asyncio.run(all_of_them())
    return found


async def _ask(
    port: int, requests: Sequence[bytes], found: Steady, begin: float, rate: float,
    seconds: float, phase: float, seed: int,
) -> None:  # fmt: skip
    chance = random.Random(seed)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in range(int(rate * seconds)):
        due = begin + (number + phase) / rate
        pause = due - time.perf_counter()
        if pause > 0:
            await asyncio.sleep(pause)
        writer.write(chance.choice(requests))
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        if head.startswith(b"HTTP/1.1 200 "):
            found.latencies.append(time.perf_counter() - due)
        else:
            found.failed += 1
    writer.close()

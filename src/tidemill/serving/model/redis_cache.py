"""The response cache's Redis tier: Redis behind a time limit and a circuit breaker.

See decision 042.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from tidemill.errors import SettingsError
from tidemill.serving.model.cache_options import CacheOptions

if TYPE_CHECKING:
    from redis.asyncio import Redis

SMOOTHING = 0.2
PING_SECONDS = 1.0
SHORTEST_TIMEOUT = 0.005  # below this, jitter of the event loop would look like a slow Redis


class RedisCache:
    """A client that never raises: every failure is a cache miss.

    Attributes:
        round_trip: Smoothed time of a round trip in seconds. Infinite while Redis is down or not
            yet measured, so that no model is slow enough to use it.

    Raises:
        SettingsError: The URL is not a Redis URL, or the `redis` package is not installed.
    """

    def __init__(self, options: CacheOptions) -> None:
        self.options = options
        self.round_trip = math.inf
        self.hits = self.errors = 0
        self.last_error: str | None = None
        self._failed = 0
        self._client = _connect(options)
        self._ping_task: asyncio.Task[None] | None = None
        self._writes: set[asyncio.Task[None]] = set()
        self._running: set[asyncio.Future[Any]] = set()

    def start(self) -> None:
        """Start to measure the round trip in the background."""
        if self._ping_task is None:
            self._ping_task = asyncio.create_task(self._ping_forever())

    async def aclose(self) -> None:
        """Cancel the background work and close the connections."""
        tasks = [*self._writes, *([self._ping_task] if self._ping_task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._ping_task, self.round_trip = None, math.inf
        with contextlib.suppress(Exception):
            await self._client.aclose()
        for command in self._running:
            command.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def get(self, key: bytes, patience: float) -> bytes | None:
        """The value of a key, or None; waits at most `patience` seconds.

        A stored value starts with its own key, so that a reply to another command on the same
        connection is never mistaken for the answer.
        """
        limit = min(self.options.timeout, max(patience, SHORTEST_TIMEOUT))
        started = time.perf_counter()
        stored: bytes | None = await self._try(self._client.get(key), limit)
        if self._failed == 0:
            self.round_trip = smoothed(self.round_trip, time.perf_counter() - started)
        if stored is None or not stored.startswith(key):
            return None
        self.hits += 1
        return stored[len(key) :]

    def put(self, key: bytes, answer: bytes) -> None:
        """Write a value in the background, unless it is large or too many writes are pending."""
        full = len(self._writes) >= self.options.max_pending
        if full or len(answer) > self.options.max_value_bytes:
            return
        task = asyncio.create_task(self._set(key, answer))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _set(self, key: bytes, answer: bytes) -> None:
        await self._try(self._client.set(key, key + answer, ex=self.options.ttl), PING_SECONDS)

    async def _try(self, command: Awaitable[Any], limit: float) -> Any:
        """The result of a command, or None after recording the failure.

        A late command is not cancelled but left to its socket's timeout: its reply must be read
        from the connection before that is used again.
        """
        task = asyncio.ensure_future(command)
        self._running.add(task)
        task.add_done_callback(self._finish)
        await asyncio.wait({task}, timeout=limit)
        if not task.done():
            self._record_failure(TimeoutError(f"no answer in {limit:.3f} s"))
            return None
        if task.cancelled() or task.exception():  # any failure is a miss
            self._record_failure(None if task.cancelled() else task.exception())
            return None
        self._failed = 0
        return task.result()

    def _finish(self, task: asyncio.Future[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it as unhandled

    def _record_failure(self, error: BaseException | None) -> None:
        self.errors += 1
        self._failed += 1
        self.last_error = f"{type(error).__name__}: {error}".rstrip(": ")
        if self._failed >= self.options.failures:
            self.round_trip = math.inf

    async def _ping_forever(self) -> None:
        """Measure the round trip and detect recovery; no request waits for this."""
        while True:
            if self.round_trip == math.inf:
                await self._ping()  # opens the connection, which is not part of a round trip
            started = time.perf_counter()
            if await self._ping():
                self.round_trip = smoothed(self.round_trip, time.perf_counter() - started)
            await asyncio.sleep(self.options.pause)

    async def _ping(self) -> bool:
        return await self._try(self._client.ping(), PING_SECONDS) is not None


def _connect(options: CacheOptions) -> Redis:
    try:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        raise SettingsError(
            "TIDEMILL_CACHE_URL is set, but the redis package is not installed.",
            field="TIDEMILL_CACHE_URL",
            remedy="Install 'tidemill[redis]', or unset TIDEMILL_CACHE_URL.",
        ) from error
    try:
        return Redis.from_url(
            str(options.url),
            socket_timeout=PING_SECONDS,
            socket_connect_timeout=PING_SECONDS,
            retry=Retry(NoBackoff(), 0),
            protocol=2,  # enough for GET, SET and PING, and supported by every Redis
        )
    except ValueError as error:
        raise SettingsError(
            f"TIDEMILL_CACHE_URL cannot be used: {error}",
            field="TIDEMILL_CACHE_URL",
            expected="redis://, rediss:// or unix://",
        ) from error


def smoothed(old: float, new: float) -> float:
    """Exponential smoothing of a time in seconds; the first value is taken unchanged."""
    return new if old in (0.0, math.inf) else old + SMOOTHING * (new - old)

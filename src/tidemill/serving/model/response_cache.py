"""The response cache: in the process first, then in Redis for the models where that pays.

    cache = Cache(CacheOptions(url="redis://cache:6379/0"))
    await cache.start()
    scope = cache.scope(model, version, digest)      # once for each loaded version
    answer = cache.get(scope, inputs)                # bytes or None; never waits
    if answer is None and cache.pays_remote(scope):
        answer = await cache.get_remote(scope, inputs)
    if answer is None:
        ...run the model, time it...
        cache.observe(scope, seconds)
        cache.put(scope, inputs, answer)             # never waits; tells Redis in the background

`inputs` are the bytes that determine the answer; the answer is whatever bytes the caller encodes.
The scope holds the bundle's digest, so that no version ever answers from another one's entry, not
even one that was registered anew under the same number.

Redis is an aid, never a need: it has a short time limit, after some failures it is left alone until
a ping in the background succeeds, and whatever goes wrong there is a miss.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tidemill.errors import SettingsError

if TYPE_CHECKING:
    from redis.asyncio import Redis

Tier = Literal["memory", "redis"]

ENTRY_OVERHEAD = 250  # bytes of Python objects around one entry, measured with tracemalloc
SMOOTHING = 0.2
PING_SECONDS = 1.0
SHORTEST_TIMEOUT = 0.005  # below this the event loop's own jitter would look like a slow Redis


class CacheOptions(msgspec.Struct, frozen=True):
    """Bounds of the cache.

    Attributes:
        entries: Most entries in the process; 0 switches the cache off there.
        bytes: Most bytes in the process, inputs and answers and their overhead together.
        url: `redis://`, `rediss://` or `unix://` of the second tier; None for none.
        ttl: Seconds after which Redis forgets an entry.
        timeout: The longest that Redis may take, in seconds; never longer than the model itself
            takes, because then the model is the quicker one.
        failures: Failures in a row after which Redis is left alone.
        pause: Seconds between the pings that ask whether it is back.
        max_value_bytes: Larger answers stay in the process.
        max_pending: Writes to Redis under way at once; more are skipped.
    """

    entries: int = 10_000
    bytes: int = 64 << 20
    url: str | None = None
    ttl: int = 3600
    timeout: float = 0.05
    failures: int = 3
    pause: float = 1.0
    max_value_bytes: int = 1 << 20
    max_pending: int = 64


class CacheScope:
    """One version of one model, as the cache sees it; made by `ResponseCache.scope`.

    `seconds` is the smoothed time that the model takes for an answer; 0.0 until observed.
    """

    __slots__ = ("prefix", "seconds")

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.seconds = 0.0


class CacheState(msgspec.Struct, frozen=True):
    """The cache in numbers, for metrics. `round_trip` is Redis's smoothed time in seconds."""

    entries: int
    bytes: int
    hits: int
    remote_hits: int
    misses: int
    remote_errors: int
    remote_up: bool
    round_trip: float | None
    last_error: str | None


class ResponseCache:
    """Both tiers. Not thread-safe: it belongs to the event loop's thread.

    Raises:
        SettingsError: A URL is given that is not one of Redis's, or the `redis` package is absent.
    """

    def __init__(self, options: CacheOptions | None = None) -> None:
        self.options = options or CacheOptions()
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = self._hits = self._misses = 0
        self._remote = _Remote(self.options) if self.options.url else None

    def scope(self, model: str, version: str, digest: str) -> CacheScope:
        """The scope of a loaded version: its entries are told apart from every other's."""
        identity = msgspec.msgpack.encode((model, version, digest))
        return CacheScope(hashlib.blake2b(identity, digest_size=16).digest())

    def get(self, scope: CacheScope, inputs: bytes) -> bytes | None:
        """The answer from the process's own memory, or None; never waits."""
        key = scope.prefix + inputs
        found = self._entries.get(key)
        if found is None:
            self._misses += 1
            return None
        self._entries.move_to_end(key)
        self._hits += 1
        return found

    def pays_remote(self, scope: CacheScope) -> bool:
        """Whether Redis is up and was measured to be quicker than the model."""
        return self._remote is not None and scope.seconds > self._remote.round_trip

    async def get_remote(self, scope: CacheScope, inputs: bytes) -> bytes | None:
        """The answer from Redis, or None when it has none, is slow, or is down.

        What is found is kept in the process too. Never raises.
        """
        if self._remote is None or not self.pays_remote(scope):
            return None
        found = await self._remote.get(_remote_key(scope, inputs), scope.seconds)
        if found is not None:
            self._keep(scope.prefix + inputs, found)
        return found

    def put(self, scope: CacheScope, inputs: bytes, answer: bytes) -> None:
        """Keep an answer; never waits and never fails. Redis is told in the background."""
        self._keep(scope.prefix + inputs, answer)
        if self._remote is not None and self.pays_remote(scope):
            self._remote.put(_remote_key(scope, inputs), answer)

    def observe(self, scope: CacheScope, seconds: float) -> None:
        """Take one measured time of the model into the scope's smoothed one."""
        scope.seconds = _smoothed(scope.seconds, seconds)

    def forget(self, scope: CacheScope) -> None:
        """Drop the scope's entries from the process, when its version is unloaded."""
        for key in [k for k in self._entries if k.startswith(scope.prefix)]:
            self._bytes -= _cost(key, self._entries.pop(key))

    async def start(self) -> None:
        """Start to measure Redis, in the background; returns at once."""
        if self._remote is not None:
            self._remote.start()

    async def aclose(self) -> None:
        """End the background work and the connections."""
        if self._remote is not None:
            await self._remote.aclose()

    def state(self) -> CacheState:
        """The numbers for metrics."""
        remote = self._remote
        return CacheState(
            entries=len(self._entries),
            bytes=self._bytes,
            hits=self._hits,
            remote_hits=remote.hits if remote else 0,
            misses=self._misses - (remote.hits if remote else 0),
            remote_errors=remote.errors if remote else 0,
            remote_up=remote is not None and remote.round_trip < math.inf,
            round_trip=remote.round_trip if remote and remote.round_trip < math.inf else None,
            last_error=remote.last_error if remote else None,
        )

    def _keep(self, key: bytes, answer: bytes) -> None:
        cost = _cost(key, answer)
        if self.options.entries < 1 or cost > self.options.bytes:
            return
        old = self._entries.pop(key, None)
        if old is not None:
            self._bytes -= _cost(key, old)
        self._entries[key] = answer
        self._bytes += cost
        while len(self._entries) > self.options.entries or self._bytes > self.options.bytes:
            oldest, value = self._entries.popitem(last=False)
            self._bytes -= _cost(oldest, value)


class _Remote:
    """Redis behind a time limit and a circuit breaker.

    `round_trip` is infinite while Redis is down or not yet measured, so that nothing is slow enough
    to be worth asking it.
    """

    def __init__(self, options: CacheOptions) -> None:
        self.options = options
        self.round_trip = math.inf
        self.hits = self.errors = 0
        self.last_error: str | None = None
        self._failed = 0
        self._client = _connect(options)
        self._pinging: asyncio.Task[None] | None = None
        self._writes: set[asyncio.Task[None]] = set()
        self._running: set[asyncio.Future[Any]] = set()

    def start(self) -> None:
        if self._pinging is None:
            self._pinging = asyncio.create_task(self._ping_forever())

    async def aclose(self) -> None:
        tasks = [*self._writes, *([self._pinging] if self._pinging else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pinging, self.round_trip = None, math.inf
        with contextlib.suppress(Exception):
            await self._client.aclose()
        for command in self._running:
            command.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def get(self, key: bytes, patience: float) -> bytes | None:
        """What is stored under the key, or None; waits for no longer than `patience` seconds.

        A stored value begins with its own key: a reply that belongs to another request, however it
        came to be on this connection, is not taken for an answer.
        """
        limit = min(self.options.timeout, max(patience, SHORTEST_TIMEOUT))
        started = time.perf_counter()
        stored: bytes | None = await self._try(self._client.get(key), limit)
        if self._failed == 0:
            self.round_trip = _smoothed(self.round_trip, time.perf_counter() - started)
        if stored is None or not stored.startswith(key):
            return None
        self.hits += 1
        return stored[len(key) :]

    def put(self, key: bytes, answer: bytes) -> None:
        full = len(self._writes) >= self.options.max_pending
        if full or len(answer) > self.options.max_value_bytes:
            return
        task = asyncio.create_task(self._set(key, answer))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _set(self, key: bytes, answer: bytes) -> None:
        await self._try(self._client.set(key, key + answer, ex=self.options.ttl), PING_SECONDS)

    async def _try(self, command: Awaitable[Any], limit: float) -> Any:
        """The command's result, or None after noting what went wrong.

        A command that is late is left to its socket's time limit, not cancelled: its reply must be
        taken off the connection before that is used again.
        """
        task = asyncio.ensure_future(command)
        self._running.add(task)
        task.add_done_callback(self._finish)
        await asyncio.wait({task}, timeout=limit)
        if not task.done():
            self._note(TimeoutError(f"no answer in {limit:.3f} s"))
            return None
        if task.cancelled() or task.exception():  # whatever it is, it is a miss, by contract
            self._note(None if task.cancelled() else task.exception())
            return None
        self._failed = 0
        return task.result()

    def _finish(self, task: asyncio.Future[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # taken here, so that asyncio does not report it as forgotten

    def _note(self, error: BaseException | None) -> None:
        self.errors += 1
        self._failed += 1
        self.last_error = f"{type(error).__name__}: {error}".rstrip(": ")
        if self._failed >= self.options.failures:
            self.round_trip = math.inf

    async def _ping_forever(self) -> None:
        """Measure the round trip, and find out whether Redis is back; no request waits for it."""
        while True:
            if self.round_trip == math.inf:
                await self._ping()  # makes the connection, which is not part of a round trip
            started = time.perf_counter()
            if await self._ping():
                self.round_trip = _smoothed(self.round_trip, time.perf_counter() - started)
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
            "A cache URL is set, but the redis package is not installed.",
            field="TIDEMILL_CACHE_URL",
            remedy="Install 'tidemill[redis]', or unset TIDEMILL_CACHE_URL.",
        ) from error
    try:
        return Redis.from_url(
            str(options.url),
            socket_timeout=PING_SECONDS,
            socket_connect_timeout=PING_SECONDS,
            retry=Retry(NoBackoff(), 0),
            protocol=2,  # GET, SET and PING need no more, and every Redis knows it
        )
    except ValueError as error:
        raise SettingsError(
            f"The cache URL cannot be used: {error}",
            field="TIDEMILL_CACHE_URL",
            expected="redis://, rediss:// or unix://",
        ) from error


def _remote_key(scope: CacheScope, inputs: bytes) -> bytes:
    digest = hashlib.blake2b(inputs, key=scope.prefix, digest_size=20).hexdigest()
    return b"tidemill:answer:" + digest.encode()


def _cost(key: bytes, answer: bytes) -> int:
    return len(key) + len(answer) + ENTRY_OVERHEAD


def _smoothed(old: float, new: float) -> float:
    """Exponential smoothing; the first value is taken as it is."""
    return new if old in (0.0, math.inf) else old + SMOOTHING * (new - old)

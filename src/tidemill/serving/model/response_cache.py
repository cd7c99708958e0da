"""The response cache: in process memory first, then in Redis for the models where that pays.

    cache = ResponseCache(CacheOptions(url="redis://cache:6379/0"))
    await cache.start()
    scope = cache.scope(model, version, digest)      # once for each loaded version
    answer = cache.get(scope, inputs)                # bytes or None; never waits
    if answer is None and cache.pays_remote(scope):
        answer = await cache.get_remote(scope, inputs)
    if answer is None:
        ...run the model and time it...
        cache.observe(scope, seconds)
        cache.put(scope, inputs, answer)             # never waits; writes to Redis in background

`inputs` are the bytes that determine the answer; the answer is whatever bytes the caller encodes.
The scope contains the bundle's digest, so a version never gets the entries of another one, even if
that was registered again under the same number.

Redis is optional at all times: it has a short time limit, after a few failures it is not used until
a background ping succeeds, and every failure is a cache miss.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict

import msgspec

from tidemill.serving.model.cache_options import CacheOptions
from tidemill.serving.model.redis_cache import RedisCache, smoothed

ENTRY_OVERHEAD = 250  # bytes of Python objects around one entry, measured with tracemalloc


class CacheScope:
    """The cache entries of one version; created by `ResponseCache.scope`.

    Attributes:
        prefix: Starts every key of the version.
        seconds: Smoothed time that the model takes for an answer; 0.0 until observed.
    """

    __slots__ = ("prefix", "seconds")

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.seconds = 0.0


class CacheState(msgspec.Struct, frozen=True):
    """The cache in numbers, for metrics.

    Attributes:
        round_trip: Smoothed time of a round trip to Redis in seconds; None while it is down.
    """

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
    """Both tiers. Not thread-safe: use it from the event loop's thread.

    Raises:
        SettingsError: The URL is not a Redis URL, or the `redis` package is not installed.
    """

    def __init__(self, options: CacheOptions | None = None) -> None:
        self.options = options or CacheOptions()
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = self._hits = self._misses = 0
        self._remote = RedisCache(self.options) if self.options.url else None

    def scope(self, model: str, version: str, digest: str) -> CacheScope:
        """The scope of a loaded version, which separates its entries from all others."""
        identity = msgspec.msgpack.encode((model, version, digest))
        return CacheScope(hashlib.blake2b(identity, digest_size=16).digest())

    def get(self, scope: CacheScope, inputs: bytes) -> bytes | None:
        """The answer from memory, or None; never waits."""
        key = scope.prefix + inputs
        found = self._entries.get(key)
        if found is None:
            self._misses += 1
            return None
        self._entries.move_to_end(key)
        self._hits += 1
        return found

    def pays_remote(self, scope: CacheScope) -> bool:
        """Whether Redis is up and measurably faster than the model."""
        return self._remote is not None and scope.seconds > self._remote.round_trip

    async def get_remote(self, scope: CacheScope, inputs: bytes) -> bytes | None:
        """The answer from Redis, or None if Redis has none, is slow or is down. Never raises.

        An answer that is found is stored in memory too.
        """
        if self._remote is None or not self.pays_remote(scope):
            return None
        found = await self._remote.get(_redis_key(scope, inputs), scope.seconds)
        if found is not None:
            self._store(scope.prefix + inputs, found)
        return found

    def put(self, scope: CacheScope, inputs: bytes, answer: bytes) -> None:
        """Store an answer, in Redis in the background. Never waits and never raises."""
        self._store(scope.prefix + inputs, answer)
        if self._remote is not None and self.pays_remote(scope):
            self._remote.put(_redis_key(scope, inputs), answer)

    def observe(self, scope: CacheScope, seconds: float) -> None:
        """Add a measured time of the model to the scope's smoothed time."""
        scope.seconds = smoothed(scope.seconds, seconds)

    def forget(self, scope: CacheScope) -> None:
        """Drop the scope's entries from memory, when its version is unloaded."""
        for key in [k for k in self._entries if k.startswith(scope.prefix)]:
            self._bytes -= _cost(key, self._entries.pop(key))

    async def start(self) -> None:
        """Start to measure Redis in the background; returns immediately."""
        if self._remote is not None:
            self._remote.start()

    async def aclose(self) -> None:
        """Stop the background work and close the connections."""
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

    def _store(self, key: bytes, answer: bytes) -> None:
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


def _redis_key(scope: CacheScope, inputs: bytes) -> bytes:
    digest = hashlib.blake2b(inputs, key=scope.prefix, digest_size=20).hexdigest()
    return b"tidemill:answer:" + digest.encode()


def _cost(key: bytes, answer: bytes) -> int:
    return len(key) + len(answer) + ENTRY_OVERHEAD

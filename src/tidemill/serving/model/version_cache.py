"""A predictor's access to the response cache."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tidemill.serving.codec.outputs import Outputs, decode_outputs
from tidemill.serving.model.batching import BatchItem
from tidemill.serving.model.response_cache import ResponseCache
from tidemill.serving.settings import ServingSettings
from tidemill.serving.telemetry.metrics import Metrics

#: Seconds that a model must take for one row for `cache = auto` to use the cache; for a faster
#: model, a look-up costs a large part of a run.
PAYS_ABOVE = 100e-6


def should_cache(settings: ServingSettings, seconds: float, *, deterministic: bool = True) -> bool:
    """Whether to cache the answers of a model that takes this many seconds for one row.

    Args:
        deterministic: False for external code, which may answer the same input differently; its
            answers are cached only if the operator sets `cache = on`.
    """
    if settings.cache == "auto":
        return deterministic and seconds > PAYS_ABOVE
    return settings.cache == "on"


class VersionCache:
    """The cached answers of one version.

    Args:
        seconds: Time for one row, as measured at warm-up; compared with Redis's round trip.
        hit: Called on the event loop with an item and its cached outputs.
        miss: Called with an item that was looked up in Redis and not found.
    """

    def __init__(
        self,
        cache: ResponseCache,
        version: tuple[str, str, str],
        seconds: float,
        metrics: Metrics,
        hit: Callable[[BatchItem, Outputs], None],
        miss: Callable[[BatchItem], None],
    ) -> None:
        self._cache = cache
        self._scope = cache.scope(*version)
        cache.observe(self._scope, seconds)
        self._hit = hit
        self._miss = miss
        self._misses = metrics.counter("tidemill_cache_misses_total")
        self._hits = {
            tier: metrics.counter("tidemill_cache_hits_total", tier=tier)
            for tier in ("memory", "redis")
        }
        self._look_ups: set[asyncio.Task[None]] = set()

    def take(self, item: BatchItem) -> bool:
        """Look an item up. True if it is cached, or being looked up in Redis: `hit` or `miss`
        follows."""
        assert item.rows is not None
        item.cache_key = item.rows.cache_key()
        stored = self._cache.get(self._scope, item.cache_key)
        if stored is not None:
            self._deliver(item, stored, "memory")
            return True
        if not self._cache.pays_remote(self._scope):
            self._misses.add()
            return False
        task = asyncio.get_running_loop().create_task(self._look_up_remote(item, item.cache_key))
        self._look_ups.add(task)
        task.add_done_callback(self._look_ups.discard)
        return True

    def keep(self, item: BatchItem, outputs: Outputs, start: int, stop: int) -> None:
        """Store the answer of an item that was not cached."""
        if item.cache_key is not None and item.cache_tier is None:
            self._cache.put(self._scope, item.cache_key, outputs.part(start, stop).encode())

    def observe(self, seconds: float) -> None:
        """Add a measured time of the model."""
        self._cache.observe(self._scope, seconds)

    def forget(self) -> None:
        """Drop the version's entries from memory."""
        self._cache.forget(self._scope)

    async def _look_up_remote(self, item: BatchItem, key: bytes) -> None:
        stored = await self._cache.get_remote(self._scope, key)
        if stored is None:
            self._misses.add()
            self._miss(item)
        else:
            self._deliver(item, stored, "redis")

    def _deliver(self, item: BatchItem, stored: bytes, tier: str) -> None:
        self._hits[tier].add()
        item.cache_tier = tier
        self._hit(item, decode_outputs(stored))

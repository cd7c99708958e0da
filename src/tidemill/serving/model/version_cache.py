"""What one version has answered before: the cache's side of a predictor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tidemill.serving.codec.outputs import Outputs, decode_outputs
from tidemill.serving.model.batching import BatchItem
from tidemill.serving.model.response_cache import ResponseCache
from tidemill.serving.settings import ServingSettings
from tidemill.serving.telemetry.metrics import Metrics

#: Seconds that a model must take for one row before the cache is asked on its own accord; below,
#: asking costs a good part of running the model.
PAYS_ABOVE = 100e-6


def should_cache(settings: ServingSettings, seconds: float, *, known: bool = True) -> bool:
    """Whether a model that takes so long for one row should have its answers kept.

    Args:
        known: False for code of others, which need not answer the same to the same; its answers
            are kept only where the operator says so.
    """
    if settings.cache == "auto":
        return known and seconds > PAYS_ABOVE
    return settings.cache == "on"


class VersionCache:
    """The answers of one version.

    Args:
        seconds: What warm-up measured for one row; the cache compares it with Redis's time.
        hit: Called on the loop with a work and its outputs when the cache knew them.
        miss: Called when Redis was asked first and did not know.
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
        self._asking: set[asyncio.Task[None]] = set()

    def take(self, work: BatchItem) -> bool:
        """Whether the answer is known, or Redis is being asked; then `hit` or `miss` follows."""
        assert work.rows is not None
        work.cache_key = work.rows.cache_key()
        stored = self._cache.get(self._scope, work.cache_key)
        if stored is not None:
            self._found(work, stored, "memory")
            return True
        if not self._cache.pays_remote(self._scope):
            self._misses.add()
            return False
        task = asyncio.get_running_loop().create_task(self._ask(work, work.cache_key))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return True

    def keep(self, work: BatchItem, outputs: Outputs, start: int, stop: int) -> None:
        """Remember the answer of a work that was not known before."""
        if work.cache_key is not None and work.cache_tier is None:
            self._cache.put(self._scope, work.cache_key, outputs.part(start, stop).encode())

    def observe(self, seconds: float) -> None:
        self._cache.observe(self._scope, seconds)

    def forget(self) -> None:
        self._cache.forget(self._scope)

    async def _ask(self, work: BatchItem, key: bytes) -> None:
        stored = await self._cache.get_remote(self._scope, key)
        if stored is None:
            self._misses.add()
            self._miss(work)
        else:
            self._found(work, stored, "redis")

    def _found(self, work: BatchItem, stored: bytes, tier: str) -> None:
        self._hits[tier].add()
        work.cache_tier = tier
        self._hit(work, decode_outputs(stored))

"""Limits of the response cache and of its Redis tier."""

from __future__ import annotations

import msgspec


class CacheOptions(msgspec.Struct, frozen=True):
    """Limits of the cache.

    Attributes:
        entries: Maximum number of entries in memory; 0 disables the memory tier.
        bytes: Maximum size in memory: inputs, answers and their overhead.
        url: `redis://`, `rediss://` or `unix://` URL of the second tier; None for none.
        ttl: Seconds after which Redis expires an entry.
        timeout: Time limit for Redis in seconds. It is never longer than the model itself takes,
            because then running the model is faster.
        failures: Number of consecutive failures after which Redis is not used.
        pause: Seconds between the pings that detect its recovery.
        max_value_bytes: Larger answers are not written to Redis.
        max_pending: Maximum number of concurrent writes to Redis; further ones are skipped.
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

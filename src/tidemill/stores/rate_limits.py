"""Rate limits of callers, counted in this process or in Redis for many processes.

While Redis is down each process counts for itself, so that a caller can use its full quota in each
of them; `degraded` says so.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from tidemill.errors import SettingsError

# After a failure the shared store is not used for this long, so that no request waits for it.
PAUSE_SECONDS = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RateLimitStatus:
    """A caller's remaining quota. `window` and `reset` are in seconds."""

    allowed: bool
    quota: int
    window: int
    remaining: int
    reset: int

    def headers(self) -> dict[str, str]:
        """Return the headers of the IETF draft on rate limits, and Retry-After on a refusal."""
        fields = {
            "RateLimit-Policy": f'"default";q={self.quota};w={self.window}',
            "RateLimit": f'"default";r={self.remaining};t={self.reset}',
        }
        return fields if self.allowed else {**fields, "Retry-After": str(max(1, self.reset))}


class RateLimits:
    """The same limit for every caller.

    Args:
        url: `memory://` or `redis://...`.
        limit: As in "600/minute"; "off" for no limit.

    Raises:
        SettingsError: The limit or the URL is invalid.
    """

    def __init__(self, url: str, limit: str) -> None:
        self._item = _parse(limit)
        options = {} if url.startswith("memory") else _REDIS_OPTIONS
        try:
            storage = storage_from_string(url, **options)
        except Exception as error:
            raise SettingsError(
                f"Rate limits cannot be counted at {url}: {error}", field="limits_url"
            ) from error
        self._shared = SlidingWindowCounterRateLimiter(storage)
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._paused_until = 0.0

    @property
    def degraded(self) -> bool:
        """Whether the shared store is down and each process counts for itself."""
        return time.monotonic() < self._paused_until

    def take(self, caller: str) -> RateLimitStatus | None:
        """Count one request of a caller and return its quota; None if there is no limit."""
        if self._item is None:
            return None
        if not self.degraded:
            try:
                return _take(self._shared, self._item, caller)
            except Exception as error:  # any error of the store's client: callers get an answer
                self._paused_until = time.monotonic() + PAUSE_SECONDS
                log.warning("rate limits are counted in this process for now: %s", error)
        return _take(self._own, self._item, caller)


_REDIS_OPTIONS: dict[str, float] = {"socket_connect_timeout": 0.3, "socket_timeout": 0.3}


def _take(
    limiter: SlidingWindowCounterRateLimiter, item: RateLimitItem, caller: str
) -> RateLimitStatus:
    allowed = limiter.hit(item, caller)
    stats = limiter.get_window_stats(item, caller)
    reset = max(0, round(stats.reset_time - time.time()))
    return RateLimitStatus(allowed, item.amount, item.get_expiry(), max(0, stats.remaining), reset)


def _parse(limit: str) -> RateLimitItem | None:
    if limit.strip().lower() == "off":
        return None
    try:
        return parse(limit)
    except ValueError as error:
        raise SettingsError(
            f"'{limit}' is not a rate limit.", field="api_rate_limit", expected="as in 600/minute"
        ) from error

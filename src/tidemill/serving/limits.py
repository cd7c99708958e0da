"""Rate limits: a token bucket for each key or address, and the headers that tell how full it is.

Headers follow draft-ietf-httpapi-ratelimit-headers: `RateLimit-Policy: "key";q=60;w=60` and
`RateLimit: "key";r=59;t=1`, where r is what is left and t the seconds until it is full again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import msgspec

from tidemill.errors import SettingsError

WINDOWS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
POLICY = re.compile(r"([1-9][0-9]{0,14})\s*(?:/|per)\s*([1-9][0-9]{0,5})?\s*([a-z]+?)s?", re.I)


class Policy(msgspec.Struct, frozen=True):
    """`quota` requests in `window` seconds, all of which may come at once."""

    name: str
    quota: int
    window: int


def parse_policy(name: str, text: str) -> Policy | None:
    """`60/minute`, `100 per 5 seconds`; `off` gives None.

    Raises:
        SettingsError: The text is neither.
    """
    if text.strip().lower() in ("off", "none", ""):
        return None
    match = POLICY.fullmatch(text.strip())
    if match is None or match[3].lower() not in WINDOWS:
        raise SettingsError(
            f"'{text}' is not a rate limit.",
            field=name,
            expected="a number and a window, such as 1000/second or 60/minute, or off",
        )
    return Policy(name, int(match[1]), int(match[2] or 1) * WINDOWS[match[3].lower()])


class Bucket:
    """One caller's share. It starts full and fills at `quota / window` a second."""

    __slots__ = ("_at", "_lines", "_per_second", "_quota", "_tokens", "policy")

    def __init__(self, policy: Policy, now: float) -> None:
        self.policy = policy
        self._quota = policy.quota
        self._tokens = float(policy.quota)
        self._per_second = policy.quota / policy.window
        self._at = now
        self._lines = (
            f'ratelimit-policy: "{policy.name}";q={policy.quota};w={policy.window}\r\n'
            f'ratelimit: "{policy.name}";r=%d;t=%d\r\n'
        ).encode()

    def take(self, now: float) -> bool:
        """Take one token; False when there is none. `now` is monotonic, in seconds."""
        tokens = self._tokens + (now - self._at) * self._per_second
        if tokens > self._quota:
            tokens = float(self._quota)
        self._at = now
        if tokens < 1.0:
            self._tokens = tokens
            return False
        self._tokens = tokens - 1.0
        return True

    def retry_after(self) -> int:
        """Whole seconds until there is a token again, at least 1."""
        return max(1, math.ceil((1.0 - self._tokens) / self._per_second))

    def lines(self) -> bytes:
        """The two header lines for an answer."""
        tokens = int(self._tokens)
        seconds = int((self._quota - tokens) / self._per_second + 0.999999)
        return self._lines % (tokens, seconds)

    def full(self, now: float) -> bool:
        """Whether forgetting this bucket would change nothing."""
        return self._tokens + (now - self._at) * self._per_second >= self.policy.quota


class Buckets:
    """The buckets of one policy by caller; bounded, because addresses are not.

    At the bound the full buckets go first, which changes nothing for their callers, and then the
    oldest ones.
    """

    def __init__(self, policy: Policy | None, clock: Callable[[], float], limit: int = 20_000):
        self._policy = policy
        self._clock = clock
        self._limit = limit
        self._buckets: dict[str, Bucket] = {}

    def of(self, caller: str) -> Bucket | None:
        """The caller's bucket; None when the policy is off."""
        if self._policy is None:
            return None
        bucket = self._buckets.get(caller)
        if bucket is None:
            if len(self._buckets) >= self._limit:
                self._forget()
            bucket = self._buckets[caller] = Bucket(self._policy, self._clock())
        return bucket

    def _forget(self) -> None:
        now = self._clock()
        kept = {k: b for k, b in self._buckets.items() if not b.full(now)}
        for caller in list(kept)[: max(0, len(kept) - self._limit // 2)]:
            del kept[caller]
        self._buckets = kept

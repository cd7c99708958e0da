"""Rate limits: a token bucket per key or address, and the headers that report it.

Headers follow draft-ietf-httpapi-ratelimit-headers: `RateLimit-Policy: "key";q=60;w=60` and
`RateLimit: "key";r=59;t=1`, where r is the number of tokens left and t the seconds until the bucket
is full.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import re
import time
from array import array
from pathlib import Path

import msgspec

from tidemill.errors import SettingsError

SLOTS = 1 << 14
WIDTH = 3  # doubles per slot: owner, tokens, time of the last update
MAX_CACHED = 4096  # buckets kept per limiter
PROBES = 8  # slots in which a caller may be
WINDOWS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
POLICY = re.compile(r"([1-9][0-9]{0,14})\s*(?:/|per)\s*([1-9][0-9]{0,5})?\s*([a-z]+?)s?", re.I)


class RateLimit(msgspec.Struct, frozen=True):
    """`quota` requests per `window` seconds, which may all arrive at once."""

    name: str
    quota: int
    window: int


def parse_rate_limit(name: str, text: str) -> RateLimit | None:
    """Parse a limit such as `60/minute` or `100 per 5 seconds`; `off` is None.

    Raises:
        SettingsError: The text is not a rate limit.
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
    return RateLimit(name, int(match[1]), int(match[2] or 1) * WINDOWS[match[3].lower()])


class TokenBucket:
    """The token bucket of one caller. It starts full and refills at `quota / window` per second.

    Its owner, tokens and time of the last update are in a slot of the table. If another caller has
    taken the slot, the bucket claims a new one.
    """

    __slots__ = (
        "_lines", "_offset", "_owner", "_per_second", "_quota", "_values", "limit", "table",
    )  # fmt: skip

    def __init__(self, limit: RateLimit, table: BucketTable, caller: str) -> None:
        self.limit = limit
        self.table = table
        self._quota = float(limit.quota)
        self._per_second = limit.quota / limit.window
        self._values = table.values
        self._owner = table.owner(f"{limit.name} {caller}")
        self._offset = table.claim(self._owner, self._quota)
        self._lines = (
            f'ratelimit-policy: "{limit.name}";q={limit.quota};w={limit.window}\r\n'
            f'ratelimit: "{limit.name}";r=%d;t=%d\r\n'
        ).encode()

    def take(self, now: float) -> bool:
        """Take one token; False if there is none. `now` is on the monotonic clock, in seconds."""
        values, offset = self._values, self._offset
        if values[offset] != self._owner:
            offset = self._offset = self.table.claim(self._owner, self._quota)
        elapsed = now - values[offset + 2]
        tokens = values[offset + 1]
        if elapsed > 0.0:
            tokens += elapsed * self._per_second
        if not 0.0 <= tokens <= self._quota:
            tokens = self._quota
        values[offset + 2] = now
        if tokens < 1.0:
            values[offset + 1] = tokens
            return False
        values[offset + 1] = tokens - 1.0
        return True

    def retry_after(self) -> int:
        """Whole seconds until the next token, at least 1."""
        missing = 1.0 - self._values[self._offset + 1]
        return max(1, math.ceil(missing / self._per_second))

    def lines(self) -> bytes:
        """The two header lines of a response."""
        tokens = int(self._values[self._offset + 1])
        seconds = int((self._quota - tokens) / self._per_second + 0.999999)
        return self._lines % (tokens, seconds)


class BucketTable:
    """The memory of all buckets. Its size is fixed, so many callers cannot make it grow, and the
    processes behind one port share it, so a limit applies to all of them together. Times are on the
    monotonic clock, which restarts with the machine, so a table from before is cleared.

    There is no lock on the hot path: two processes that take a token at the same instant may count
    it once, so the limit is exact up to such collisions.

    Args:
        folder: Holds the file that the processes share; None if this process has its own table.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is None:
            self._map = mmap.mmap(-1, (SLOTS * WIDTH + 1) * 8)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "limits").open("a+b") as file:
                file.truncate((SLOTS * WIDTH + 1) * 8)
                self._map = mmap.mmap(file.fileno(), (SLOTS * WIDTH + 1) * 8)
        self.values: memoryview[float] = memoryview(self._map).cast("d")
        boot = self.owner(_boot_id())
        if self.values[-1] != boot:
            self._map[:] = bytes(len(self._map))
            self.values[-1] = boot

    def owner(self, caller: str) -> float:
        """The caller as a number: 48 bits of a hash, which a double stores exactly."""
        digest = hashlib.blake2b(caller.encode("utf-8", "replace"), digest_size=6).digest()
        return float(int.from_bytes(digest) + 1)

    def claim(self, owner: float, tokens: float) -> int:
        """The offset of the owner's slot. Without one, the owner gets a free slot, or the least
        recently used of the slots it may have, with so many tokens."""
        values = self.values
        first = int(owner) % SLOTS
        near = [((first + i) % SLOTS) * WIDTH for i in range(PROBES)]
        for offset in near:
            if values[offset] == owner:
                return offset
        free = next((p for p in near if values[p] == 0.0), None)
        offset = free if free is not None else min(near, key=lambda p: values[p + 2])
        values[offset : offset + WIDTH] = array("d", (owner, tokens, time.monotonic()))
        return offset


def _boot_id() -> str:
    """Identifies the time since the machine started; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return ""


class RateLimiter:
    """The buckets of one rate limit."""

    def __init__(self, limit: RateLimit | None, table: BucketTable) -> None:
        self._limit = limit
        self._table = table
        self._known: dict[str, TokenBucket] = {}

    def of(self, caller: str) -> TokenBucket | None:
        """The caller's bucket; None if the limit is off."""
        if self._limit is None:
            return None
        bucket = self._known.get(caller)
        if bucket is None:
            if len(self._known) >= MAX_CACHED:
                self._known.clear()
            bucket = self._known[caller] = TokenBucket(self._limit, self._table, caller)
        return bucket

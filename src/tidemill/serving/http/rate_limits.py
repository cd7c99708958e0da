"""Rate limits: a token bucket for each key or address, and the headers that tell how full it is.

Headers follow draft-ietf-httpapi-ratelimit-headers: `RateLimit-Policy: "key";q=60;w=60` and
`RateLimit: "key";r=59;t=1`, where r is what is left and t the seconds until it is full again.
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

PLACES = 1 << 14
WIDTH = 3  # doubles a place: owner, tokens, when they were counted
REMEMBERED = 4096  # callers whose place is not looked for again
NEAR = 8  # places where an owner may be
WINDOWS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
POLICY = re.compile(r"([1-9][0-9]{0,14})\s*(?:/|per)\s*([1-9][0-9]{0,5})?\s*([a-z]+?)s?", re.I)


class RateLimit(msgspec.Struct, frozen=True):
    """`quota` requests in `window` seconds, all of which may come at once."""

    name: str
    quota: int
    window: int


def parse_rate_limit(name: str, text: str) -> RateLimit | None:
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
    return RateLimit(name, int(match[1]), int(match[2] or 1) * WINDOWS[match[3].lower()])


class TokenBucket:
    """One caller's share. It starts full and fills at `quota / window` a second.

    Its numbers lie in the table's cells: owner, tokens, and when they were counted. A bucket whose
    place was taken by a newer caller finds itself another one.
    """

    __slots__ = ("_cells", "_lines", "_owner", "_per_second", "_place", "_quota", "policy", "table")

    def __init__(self, policy: RateLimit, table: BucketTable, caller: str) -> None:
        self.policy = policy
        self.table = table
        self._quota = float(policy.quota)
        self._per_second = policy.quota / policy.window
        self._cells = table.cells
        self._owner = table.owner(f"{policy.name} {caller}")
        self._place = table.place(self._owner, self._quota)
        self._lines = (
            f'ratelimit-policy: "{policy.name}";q={policy.quota};w={policy.window}\r\n'
            f'ratelimit: "{policy.name}";r=%d;t=%d\r\n'
        ).encode()

    def take(self, now: float) -> bool:
        """Take one token; False when there is none. `now` is monotonic, in seconds."""
        cells, place = self._cells, self._place
        if cells[place] != self._owner:
            place = self._place = self.table.place(self._owner, self._quota)
        tokens = cells[place + 1] + (now - cells[place + 2]) * self._per_second
        if tokens > self._quota:
            tokens = self._quota
        cells[place + 2] = now
        if tokens < 1.0:
            cells[place + 1] = tokens
            return False
        cells[place + 1] = tokens - 1.0
        return True

    def retry_after(self) -> int:
        """Whole seconds until there is a token again, at least 1."""
        missing = 1.0 - self._cells[self._place + 1]
        return max(1, math.ceil(missing / self._per_second))

    def lines(self) -> bytes:
        """The two header lines for an answer."""
        tokens = int(self._cells[self._place + 1])
        seconds = int((self._quota - tokens) / self._per_second + 0.999999)
        return self._lines % (tokens, seconds)


class BucketTable:
    """Where buckets keep their numbers: of fixed size, so that no flood of callers makes it grow,
    and shared by the processes behind one port, so that a share is one share.

    Two processes that take at the same instant may count one token for both: the limit is kept to
    within that, without a lock on the hot path.

    Args:
        folder: Where the processes find the table; None for a process of its own.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is None:
            self._map = mmap.mmap(-1, PLACES * WIDTH * 8)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "limits").open("a+b") as file:
                file.truncate(PLACES * WIDTH * 8)
                self._map = mmap.mmap(file.fileno(), PLACES * WIDTH * 8)
        self.cells: memoryview[float] = memoryview(self._map).cast("d")

    def owner(self, caller: str) -> float:
        """The caller as a number: 48 bits of a hash, which a double holds exactly."""
        digest = hashlib.blake2b(caller.encode("utf-8", "replace"), digest_size=6).digest()
        return float(int.from_bytes(digest) + 1)

    def place(self, owner: float, tokens: float) -> int:
        """The owner's place, taken with that many tokens if it had none. Where all near ones are
        taken, the one that was not used for longest goes."""
        cells = self.cells
        first = int(owner) % PLACES
        near = [((first + i) % PLACES) * WIDTH for i in range(NEAR)]
        for place in near:
            if cells[place] == owner:
                return place
        free = next((p for p in near if cells[p] == 0.0), None)
        place = free if free is not None else min(near, key=lambda p: cells[p + 2])
        cells[place : place + WIDTH] = array("d", (owner, tokens, time.monotonic()))
        return place


class RateLimiter:
    """The buckets of one policy."""

    def __init__(self, policy: RateLimit | None, table: BucketTable) -> None:
        self._policy = policy
        self._table = table
        self._known: dict[str, TokenBucket] = {}

    def of(self, caller: str) -> TokenBucket | None:
        """The caller's bucket; None when the policy is off."""
        if self._policy is None:
            return None
        bucket = self._known.get(caller)
        if bucket is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            bucket = self._known[caller] = TokenBucket(self._policy, self._table, caller)
        return bucket

"""What slow parts answered, at most seconds old, so that no page waits for them.

A page waits for a third of a second. What is not there by then it shows as it was, or as still to
come; the page as it is shown live has it a moment later. Consoles that are open at the same time
share one question.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from tidemill.errors import NotFoundError, TidemillError

T = TypeVar("T")
KEPT = 256
THREADS = 4
WAIT_SECONDS = 0.35
FRESH_SECONDS = 2.0


@dataclass(frozen=True)
class CachedValue(Generic[T]):
    """The newest answer there is, and why there is no newer one. Neither: it is still to come."""

    value: T | None = None
    problem: str | None = None

    @property
    def loading(self) -> bool:
        return self.value is None and self.problem is None


@dataclass
class _Entry:
    at: float = float("-inf")
    value: Any = None
    error: Exception | None = None
    asking: Future[Any] | None = None


class BackgroundCache:
    """Answers by key, the ones used longest ago dropped first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="console")

    def get(
        self,
        key: Hashable,
        make: Callable[[], T],
        *,
        fresh: float = FRESH_SECONDS,
        patience: float = WAIT_SECONDS,
    ) -> CachedValue[T]:
        """The answer, asked for anew when it is older than `fresh` seconds.

        Raises:
            NotFoundError: What was asked for is not there.
        """
        entry = self._entry(key, make, fresh)
        if entry.asking is not None:
            wait([entry.asking], patience)
        if isinstance(entry.error, NotFoundError):
            raise entry.error
        problem = None if entry.error is None else _words(entry.error)
        return CachedValue(cast("T | None", entry.value), problem)

    def forget(self) -> None:
        """Ask for everything anew: something was changed."""
        with self._lock:
            self._entries.clear()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _entry(self, key: Hashable, make: Callable[[], Any], fresh: float) -> _Entry:
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > KEPT:
                self._entries.popitem(last=False)
            idle = entry.asking is None or entry.asking.done()
            if idle and time.monotonic() - entry.at >= fresh:
                entry.asking = self._pool.submit(self._ask, entry, make)
        return entry

    def _ask(self, entry: _Entry, make: Callable[[], Any]) -> None:
        try:
            entry.value, entry.error = make(), None
        except NotFoundError as error:
            entry.value, entry.error = None, error
        except Exception as error:  # whatever the part's client raises; the page says it
            entry.error = error
        finally:
            entry.at = time.monotonic()


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, TidemillError) else f"{type(error).__name__}: {error}"

"""A cache of slow queries, refreshed in the background, so that no page waits for them.

A page waits for a third of a second at most. After that it shows the last value, or that it is
loading; the live page shows the new value a moment later. Open consoles share each query.

See decision 112.
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
MAX_ENTRIES = 256
THREADS = 4
WAIT_SECONDS = 0.35
FRESH_SECONDS = 2.0


@dataclass(frozen=True)
class CachedValue(Generic[T]):
    """The last value, and the error of the last refresh if it failed. Neither: still loading."""

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
    refresh: Future[Any] | None = None


class BackgroundCache:
    """Values by key; the least recently used ones are dropped."""

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
        """The value of a key.

        Args:
            make: Computes the value, in a background thread.
            fresh: Age in seconds from which the value is refreshed.
            patience: Seconds to wait for a refresh.

        Raises:
            NotFoundError: `make` raised it.
        """
        entry = self._entry(key, make, fresh)
        if entry.refresh is not None:
            wait([entry.refresh], patience)
        if isinstance(entry.error, NotFoundError):
            raise entry.error
        problem = None if entry.error is None else _describe(entry.error)
        return CachedValue(cast("T | None", entry.value), problem)

    def clear(self) -> None:
        """Drop all values, because something was changed."""
        with self._lock:
            self._entries.clear()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _entry(self, key: Hashable, make: Callable[[], Any], fresh: float) -> _Entry:
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > MAX_ENTRIES:
                self._entries.popitem(last=False)
            idle = entry.refresh is None or entry.refresh.done()
            if idle and time.monotonic() - entry.at >= fresh:
                entry.refresh = self._pool.submit(self._refresh, entry, make)
        return entry

    def _refresh(self, entry: _Entry, make: Callable[[], Any]) -> None:
        try:
            entry.value, entry.error = make(), None
        except NotFoundError as error:
            entry.value, entry.error = None, error
        except Exception as error:  # any error of a client; the page shows it
            entry.error = error
        finally:
            entry.at = time.monotonic()


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, TidemillError) else f"{type(error).__name__}: {error}"

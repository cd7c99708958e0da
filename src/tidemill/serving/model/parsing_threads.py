"""Parses large bodies off the event loop, so that small requests do not wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tidemill.errors import UnavailableError

T = TypeVar("T")
LARGE_BODY = 64 << 10  # bytes; a smaller body takes less time than a change of threads costs
MAX_WAITING = 32


class ParsingThreads:
    """A bounded pool: a large body that finds it full is refused."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(1, "parsing")
        self._waiting = 0

    def run(self, parse: Callable[[], T], done: Callable[[Callable[[], T]], None]) -> None:
        """Call `parse` in a thread, then `done(result)` on the event loop, where `result()` returns
        or raises what `parse` did.

        Raises:
            UnavailableError: Too many bodies wait.
        """
        if self._waiting >= MAX_WAITING:
            raise UnavailableError(
                f"{self._waiting} large requests are being read.",
                remedy="Retry after a short pause, or send fewer rows at once.",
            )
        self._waiting += 1
        loop = asyncio.get_running_loop()

        def finish(future: Future[T]) -> None:
            self._waiting -= 1
            done(future.result)

        def hand_over(future: Future[T]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(finish, future)

        self._threads.submit(parse).add_done_callback(hand_over)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

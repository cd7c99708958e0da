"""Separate, bounded queues for reading and writing requests, so that a slow database stops neither.

Route functions run in one pool of 40 threads. While the database is locked, each writing request
holds a thread until its wait is over; without queues 40 of them would hold the whole pool, and
reading requests would wait behind them. See decision 198.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.api.problems import problem_response
from tidemill.errors import UnavailableError

READS = frozenset(("GET", "HEAD", "OPTIONS"))
#: Answered without a thread or a database, also while both queues are full.
FREE = frozenset(("/health",))
#: Waiting requests for each one that runs; more are refused at once.
QUEUE_FACTOR = 16


class RequestQueue:
    """At most `size` requests at a time.

    Others wait in order, without a thread, for at most `patience` seconds.
    """

    def __init__(self, name: str, size: int, patience: float) -> None:
        self._name = name
        self._size = size
        self._patience = patience
        self._slots = asyncio.Semaphore(size)
        self._waiting = 0

    @asynccontextmanager
    async def entered(self) -> AsyncIterator[Release]:
        """Hold a slot until the block or the first `release()` ends it.

        Raises:
            UnavailableError: Too many requests wait, or no slot became free in time.
        """
        await self._enter()
        release = Release(self._slots)
        try:
            yield release
        finally:
            release()

    async def _enter(self) -> None:
        if self._waiting >= QUEUE_FACTOR * self._size:
            raise self._full()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._patience):
                await self._slots.acquire()
        except TimeoutError:
            raise self._full() from None
        finally:
            self._waiting -= 1

    def _full(self) -> UnavailableError:
        return UnavailableError(
            f"The server is busy: no {self._name} request was finished in {self._patience:g} s.",
            remedy="Retry in some seconds. The operator can check with `tidemill doctor`.",
        )


class Release:
    """Frees a slot, once."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots: asyncio.Semaphore | None = slots

    def __call__(self) -> None:
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.release()


class RequestQueues:
    """Lets a request through when its queue has a slot, which it holds until its answer starts."""

    def __init__(self, app: ASGIApp, readers: int, writers: int, patience: float) -> None:
        self._app = app
        self._reading = RequestQueue("reading", readers, patience)
        self._writing = RequestQueue("writing", writers, patience)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in FREE:
            await self._app(scope, receive, send)
            return
        queue = self._reading if scope["method"] in READS else self._writing
        try:
            async with queue.entered() as release:
                await self._app(scope, receive, _releasing(send, release))
        except UnavailableError as problem:
            await problem_response(problem)(scope, receive, send)


def _releasing(send: Send, release: Release) -> Send:
    async def send_and_release(message: Message) -> None:
        if message["type"] == "http.response.start":
            release()  # a stream of events may last for minutes
        await send(message)

    return send_and_release

"""Commits the requests of one event-loop tick together: run the models, write the journal once,
send the responses.

The event loop reads every ready socket before it calls `commit`, so requests that arrive together
are run together, and none of them waits for others to arrive. See decision 031.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from tidemill.serving.http.responder import Responder
from tidemill.serving.http.routes import Request, Response
from tidemill.serving.journal.policy import journal_full_error

if TYPE_CHECKING:
    from tidemill.serving.journal.journal import Journal

CallSoon = Callable[[Callable[[], None]], object]


class Drainable(Protocol):
    """Something that has work to do at the end of the tick."""

    def drain(self) -> None: ...


class BatchCommit:
    """Collects the work of one event-loop tick.

    Args:
        journal: None to record nothing.

    `commits` counts the commits so far.
    """

    def __init__(self, responder: Responder, journal: Journal | None) -> None:
        self.journal = journal
        self.commits = 0
        self._call_soon: CallSoon = _call_soon
        self._responder = responder
        self._send = responder.send
        self._scheduled = False
        self._waiting: list[Drainable] = []
        self._responses: list[tuple[Request, Response]] = []

    def start(self) -> None:
        """Commit on the running event loop, without looking it up each time."""
        self._call_soon = asyncio.get_running_loop().call_soon

    def add(self, work: Drainable) -> None:
        """Drain `work` at the end of this tick."""
        self._waiting.append(work)
        self.schedule()

    def release(self, request: Request, response: Response) -> None:
        """Send the response once the journal holds what this tick recorded."""
        self._responses.append((request, response))
        self.schedule()

    def schedule(self) -> None:
        """Commit at the end of this tick."""
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self.commit)

    def fail(self, request: Request, error: Exception) -> None:
        """Release the response for an error, unless the champion answers the request instead."""
        response = self._responder.handle_error(request, error)
        if response is not None:
            self.release(request, response)

    def commit(self) -> None:
        """Run, write, send."""
        waiting, self._waiting = self._waiting, []
        for work in waiting:
            work.drain()
        responses, self._responses = self._responses, []
        self._scheduled = False
        self.commits += 1
        if self._waiting:  # requests whose canary failed, for their champion
            self.schedule()
        if self.journal is not None and not self.journal.commit():
            responses = [(req, self._unrecorded(req, response)) for req, response in responses]
        send = self._send
        for request, response in responses:
            send(request, response)

    def _unrecorded(self, request: Request, response: Response) -> Response:
        if response.status >= 400:
            return response
        return self._responder.error_response(request, journal_full_error())


def _call_soon(callback: Callable[[], None]) -> object:
    return asyncio.get_running_loop().call_soon(callback)

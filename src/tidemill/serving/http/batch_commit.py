"""Commits the requests of one event-loop tick together: run the models, write the journal once,
send the responses.

The event loop reads every ready socket before it calls `commit`, so requests that arrive together
are run together, and none of them waits for others to arrive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from tidemill.errors import TidemillError
from tidemill.serving.http.routes import Request, Response
from tidemill.serving.journal.policy import journal_full_error

if TYPE_CHECKING:
    from tidemill.serving.journal.journal import Journal


class Drainable(Protocol):
    """Something that has work to do at the end of the tick."""

    def drain(self) -> None: ...


class BatchCommit:
    """Collects the work of one event-loop tick.

    Args:
        call_soon: Schedules a callback on the event loop.
        send: Sends and counts a response.
        error_response: Builds the response for an error, in the format of the request's route.
        journal: None to record nothing.
        handle_error: As `error_response`, but returns None when the champion will answer instead
            of a failed canary. Defaults to `error_response`.

    `commits` counts the commits so far.
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        send: Callable[[Request, Response], None],
        error_response: Callable[[Request, TidemillError], Response],
        journal: Journal | None,
        handle_error: Callable[[Request, Exception], Response | None] | None = None,
    ) -> None:
        self.journal = journal
        self.commits = 0
        self.call_soon = call_soon
        self._send = send
        self._error_response = error_response
        self._handle_error = handle_error or error_response
        self._scheduled = False
        self._waiting: list[Drainable] = []
        self._responses: list[tuple[Request, Response]] = []

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
            self.call_soon(self.commit)

    def fail(self, request: Request, error: TidemillError) -> None:
        """Release the response for an error, unless the champion answers the request instead."""
        response = self._handle_error(request, error)
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
        return self._error_response(request, journal_full_error())

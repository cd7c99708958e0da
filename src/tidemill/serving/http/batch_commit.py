"""The end of a loop turn: run what came together, write the journal once, let the answers leave.

Every socket that is ready is read before the end of a turn, so requests that arrive together are
run together, without anyone waiting for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from tidemill.errors import TidemillError
from tidemill.serving.http.routes import Call, Reply
from tidemill.serving.journal.recorder import journal_full

if TYPE_CHECKING:
    from tidemill.serving.journal.journal import Journal


class Drainable(Protocol):
    """Something with work for the end of the turn."""

    def drain(self) -> None: ...


class Turn:
    """Collects the work of one loop turn.

    Args:
        call_soon: The loop's; may be set later, because a turn is made before its loop runs.
        settle: Sends a reply, and counts it.
        refuse: Makes the reply that tells an error, in the shape of the call's route.
        journal: None records nothing.
        failed: As `refuse`, but gives None when somebody else answers the call; by default it.

    `ended` counts the turns.
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        settle: Callable[[Call, Reply], None],
        refuse: Callable[[Call, TidemillError], Reply],
        journal: Journal | None,
        failed: Callable[[Call, Exception], Reply | None] | None = None,
    ) -> None:
        self.journal = journal
        self.ended = 0
        self._failed = failed or refuse
        self.call_soon = call_soon
        self._settle = settle
        self._refuse = refuse
        self._scheduled = False
        self._waiting: list[Drainable] = []
        self._answers: list[tuple[Call, Reply]] = []

    def add(self, work: Drainable) -> None:
        """Drain `work` at the end of this turn."""
        self._waiting.append(work)
        self._schedule()

    def release(self, call: Call, reply: Reply) -> None:
        """Send the reply once the journal holds what this turn recorded."""
        self._answers.append((call, reply))
        self._schedule()

    def touch(self) -> None:
        """Have the journal written at the end of this turn."""
        self._schedule()

    def fail(self, call: Call, error: TidemillError) -> None:
        """Send the error in the shape of the call's protocol, if nobody else can answer."""
        reply = self._failed(call, error)
        if reply is not None:
            self.release(call, reply)

    def end(self) -> None:
        """Run, write, send."""
        waiting, self._waiting = self._waiting, []
        for work in waiting:
            work.drain()
        answers, self._answers = self._answers, []
        self._scheduled = False
        self.ended += 1
        if self._waiting:  # what a canary failed on, and its champion is to answer
            self._schedule()
        if self.journal is not None and not self.journal.commit():
            answers = [(call, self._unrecorded(call, reply)) for call, reply in answers]
        settle = self._settle
        for call, reply in answers:
            settle(call, reply)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.call_soon(self.end)

    def _unrecorded(self, call: Call, reply: Reply) -> Reply:
        if reply.status >= 400:
            return reply
        return self._refuse(call, journal_full())

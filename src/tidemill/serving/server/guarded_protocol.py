"""Bounds what a connection may cost: how many there are, how much a message holds, how long each
wait lasts.

Every wait has a deadline from the moment of connection: for the first byte, the head, the body, and
for the client to read its responses. One timer per connection checks them, so that requests cost no
timers. A body's deadline is extended by the bytes that arrive, so that a large upload over a slow
line is not cut off.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tidemill.serving.server.connection import ConnectionLimits

MAX_HEAD_BYTES = 64 << 10  # of a head, or of the trailers
MAX_HEAD_FIELDS = 100  # header lines of a head, or of the trailers
#: Bytes around a chunked body: a constant, and six per byte of the body, which chunks of one byte
#: need.
MAX_OVERHEAD_BYTES, MAX_OVERHEAD_PER_BYTE = 128 << 10, 6
MAX_DRY_BYTES = 128 << 10  # in a row that add nothing to the body: one endless trailer, say
MIN_BODY_RATE = 16 << 10  # bytes per second that extend a body's deadline
CHECK_SECONDS = 5.0  # the longest time between two checks of a connection's deadlines
REASONS = {
    400: "Invalid HTTP request received.",
    408: "The request took too long to arrive.",
    431: "The request's headers or trailers are too large.",
    503: "Too many connections.",
}


class MessageLimitError(Exception):
    """Raised in a parser's callback, which stops the parser."""


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits. A subclass sets `limits` and reports its own waits."""

    limits: ConnectionLimits

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.last_used = self.loop.time()  # connected, or the last response began or ended
        self.timer: asyncio.TimerHandle | None = None
        self.between = True  # the parser is between two requests
        self.in_head = False  # the parser is in the middle of a head
        self.began = False  # a request has begun in the last read, after others maybe
        self.message_began = 0.0  # when the request's head, then its body began to arrive
        self.message_bytes = 0  # of the request that the parser is in, with what precedes it
        self.dry_bytes = 0  # of them, since the body last grew
        self.body_bytes = 0
        self.head_bytes = 0
        self.fields = 0
        self.refusal = 400  # the status for a request that stops the parser
        self.blocked_since: float | None = None  # the client does not read its responses

    # From the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self.limits.enter(self, self.client):
            self.refuse(503)
            return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.limits.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        body_bytes, self.began = self.body_bytes, False
        self.message_bytes += len(data)
        super().data_received(data)
        if self.between:
            self.message_bytes = 0
            return
        dry = self.body_bytes == body_bytes and not self.began
        self.dry_bytes = self.dry_bytes + len(data) if dry else 0
        if self._over_budget() and not self.transport.is_closing():
            self.refuse(431)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.blocked_since = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.blocked_since = None

    # From the parser

    def on_message_begin(self) -> None:
        self.begin_message()
        self.set_scope()

    def begin_message(self) -> None:
        self.between, self.in_head, self.began = False, True, True
        self.message_began = self.loop.time()
        self.head_bytes = self.fields = self.body_bytes = self.dry_bytes = 0

    def set_scope(self) -> None:
        """Make the ASGI scope, as uvicorn does at the beginning of a message."""
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url), 0)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4, 1)
        if self.in_head:  # trailers are read and dropped: they came after the request was admitted
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self.end_head()
        super().on_headers_complete()

    def end_head(self) -> None:
        self.in_head = False
        self.message_began = self.loop.time()
        self.head_bytes = self.fields = 0  # from here on, of the trailers

    def on_body(self, body: bytes) -> None:
        self.body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.end_message()
        super().on_message_complete()

    def end_message(self) -> None:
        self.between = True
        self.message_bytes = 0

    def handle_websocket_upgrade(self) -> None:
        super().handle_websocket_upgrade()
        self.limits.leave(self)

    def on_response_complete(self) -> None:
        self.last_used = self.loop.time()
        super().on_response_complete()
        self._unset_keepalive_if_required()  # our timer closes idle connections

    # Size limits

    def _count(self, size: int, fields: int) -> None:
        self.head_bytes += size
        self.fields += fields
        if self.head_bytes > MAX_HEAD_BYTES or self.fields > MAX_HEAD_FIELDS:
            self.refusal = 431
            raise MessageLimitError

    def _over_budget(self) -> bool:
        """Whether more has arrived around the body than any sensible client sends."""
        if self.dry_bytes > MAX_DRY_BYTES:
            return True
        around = self.message_bytes - self.body_bytes
        return around > MAX_OVERHEAD_BYTES + MAX_OVERHEAD_PER_BYTE * self.body_bytes

    # Deadlines

    def is_answering(self) -> bool:
        """Whether a complete request waits for its response, or we do not read its body."""
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete and not cycle.more_body
        return answering or self.flow.read_paused

    def is_idle(self) -> bool:
        """Whether no request has begun to arrive or waits for its response."""
        return self.between and (self.cycle is None or self.cycle.response_complete)

    def _deadline(self) -> float | None:
        """The time until which the connection may stay as it is; None if it waits for us."""
        limits = self.limits
        if self.blocked_since is not None:
            return self.blocked_since + limits.write_seconds
        if self.is_idle():
            return self.last_used + self.timeout_keep_alive
        if self.is_answering():
            return None
        if self.in_head:
            return self.message_began + limits.head_seconds
        return self.message_began + limits.body_seconds + self.body_bytes / MIN_BODY_RATE

    def _arm(self) -> None:
        deadline = self._deadline()
        left = CHECK_SECONDS if deadline is None else deadline - self.loop.time()
        pause = min(max(left, 0.001), CHECK_SECONDS, self.limits.shortest)
        self.timer = self.loop.call_later(pause, self._check)

    def _check(self) -> None:
        self.timer = None
        if self.transport.get_protocol() is not self:  # upgraded to a WebSocket
            return
        deadline = self._deadline()
        if deadline is None or self.loop.time() < deadline:
            self._arm()
        elif self.transport.is_closing() or self.transport.get_write_buffer_size():
            self.transport.abort()  # the client does not read: waiting would have no end
        else:
            if self.is_idle() or self.in_head:  # nobody may be there, and no route is known yet
                self.transport.close()
            else:
                self.refuse(408)
            self._arm()

    # Refusals

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this when the parser stops, for whatever reason."""
        self.refuse(self.refusal)

    def refuse(self, status: int) -> None:
        """Answer outside the ASGI app and close; without an answer where another has begun."""
        cycle = self.cycle
        if self.pipeline and cycle is self.pipeline[0][0] and cycle.more_body:
            # It waits for the responses before it, and so does its refusal.
            cycle.keep_alive = False
            self.pipeline[0] = (cycle, partial(_refuse, status))
            return
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:  # an earlier request: close after its response
                cycle.keep_alive = False
                return
            cycle.disconnected = True
            cycle.message_event.set()
        begun = cycle is not None and cycle.response_started
        if begun and not self.between and not self.in_head:
            self.transport.close()
            return
        body = REASONS[status].encode()
        self.transport.write(
            b"%bcontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (STATUS_LINE[status], len(body), body)
        )
        self.transport.close()


async def _refuse(status: int, scope: Any, receive: Any, send: Any) -> None:
    """The ASGI app for a request that could not be read."""
    body = REASONS[status].encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

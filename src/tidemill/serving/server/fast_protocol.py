"""The fast protocol: answers plain POSTs inside uvicorn's HTTP protocol, without an ASGI cycle.

A request takes one of three paths, fastest first. `Dispatcher` answers all of them, so the response
is the same:

1. If the head has the same bytes as the previous request's on this connection except for the
   content length, which is what keep-alive clients send, the head is not parsed again.
2. A plain POST to a fast route is parsed by httptools and answered when its last byte has arrived.
3. Everything else (other methods, queries, chunked bodies, Expect, HTTP/1.0, refusals, upgrades)
   goes through the ASGI app, as in uvicorn.

Responses leave in the order of the requests, whichever path each request took. See decision 030.
"""

from __future__ import annotations

from collections import deque
from typing import Any
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from tidemill.serving.http.dispatcher import Dispatcher
from tidemill.serving.http.routes import Admission, RequestHead, Response
from tidemill.serving.server.asgi import ServingApp
from tidemill.serving.server.connection import (
    ClientAddresses,
    ConnectionLimits,
    DefaultLines,
    KnownHead,
)
from tidemill.serving.server.guarded_protocol import REASONS, GuardedProtocol

MOST_WAITING = 64  # pending responses of one connection before it is no longer read
#: Headers that send a request through the ASGI app.
SPECIAL = frozenset({b"transfer-encoding", b"expect", b"upgrade"})


class PendingResponse:
    """One response in the order of the connection's requests; called when the response is ready."""

    __slots__ = ("connection", "data")

    def __init__(self, connection: FastProtocol) -> None:
        self.connection = connection
        self.data: bytes | None = None

    def __call__(self, response: Response, block: bytes) -> None:
        connection = self.connection
        pending = connection.pending
        if connection.ending and pending[-1] is self:
            block += b"connection: close\r\n"
        body = response.body
        self.data = b"".join(
            (
                STATUS_LINE[response.status],
                connection.defaults.of(connection.server_state.default_headers),
                block,
                b"content-length: %d\r\n\r\n" % len(body),
                body,
            )
        )
        if pending[0] is self:
            connection.advance()


class FastProtocol(GuardedProtocol):
    """One connection. `protocol_class` sets the class attributes without a value."""

    dispatcher: Dispatcher
    limit: int
    addresses: ClientAddresses
    defaults: DefaultLines
    draining = False  # set on the class while the server drains before shutdown

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.pending: deque[PendingResponse] = deque()
        self.known_head: KnownHead | None = None
        self.admission: Admission | None = None  # of the request being parsed, if it is fast
        self.body: bytes | bytearray = b""  # what has arrived of a fast request's body
        self.missing = 0  # bytes of a recognised request's body still to arrive
        self.read = b""  # the read being parsed, if a request begins with it
        self.request_read = b""  # the read with which the request being parsed began
        self.ending = self.draining  # close after the pending responses

    # From the transport

    def data_received(self, data: bytes) -> None:
        while data and self.known_head is not None and self._asgi_idle():
            rest = self._recognise(data)
            if rest is None:
                break
            data = rest
        if data:
            self._parse(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.pending.clear()
        self.body = b""
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client is not reading responses, so stop reading its requests."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_on()

    def shutdown(self) -> None:
        """Close once every request that has begun is answered."""
        if self.pending or self.admission is not None or self.missing:
            self.ending = True
        else:
            super().shutdown()

    # From the parser

    def on_message_begin(self) -> None:
        """Begin as uvicorn does, but without the ASGI scope, which only the ASGI app needs."""
        self.begin_message()
        self.request_read, self.read = self.read, b""  # later requests of a read begin elsewhere
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self.end_head()
        admission = self._admit() if self._asgi_idle() else None
        if admission is None:
            self._make_scope()
            super().on_headers_complete()
            return
        self.admission = admission
        self.body = b""

    def on_body(self, body: bytes) -> None:
        if self.admission is None:
            super().on_body(body)
        else:
            self.body_bytes += len(body)
            self._add_to_body(body)

    def on_message_complete(self) -> None:
        admission, self.admission = self.admission, None
        if admission is None:
            super().on_message_complete()
            return
        self.end_message()
        self.known_head = KnownHead.of(self.request_read, admission)
        self._answer(admission, self._take_body())

    def _parse(self, data: bytes) -> None:
        self.read = data if self.between else b""
        super().data_received(data)

    def _make_scope(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        self.set_scope()
        self.url, self.expect_100_continue = url, expects
        self.headers = self.scope["headers"] = headers

    # The two fast paths

    def _asgi_idle(self) -> bool:
        """Whether no request is with the ASGI app, where uvicorn keeps the order."""
        return self.cycle is None or self.cycle.response_complete

    def _recognise(self, data: bytes) -> bytes | None:
        """Consume one request whose head is the known one, or part of such a request.

        Returns:
            The data after it; None if the data must be parsed.
        """
        if self.missing:
            return self._continue(data)
        known = self.known_head
        assert known is not None
        if not self.between or not data.startswith(known.before):
            return None
        start = len(known.before)
        end = data.find(b"\r", start, start + 10)
        digits = data[start:end]
        if end < 0 or not digits.isdigit() or not data.startswith(known.after, end):
            return None
        length = int(digits)
        if length > self.limit or known.admission.generation is not self.dispatcher.keys.generation:
            return None
        first = end + len(known.after)
        last = first + length
        body = data[first:last]
        if len(body) < length:
            self.body, self.missing = body, length - len(body)
            self.message_began, self.body_bytes = self.loop.time(), len(body)
            return b""
        self._answer(known.admission, body)
        return data[last:]

    def _continue(self, data: bytes) -> bytes:
        """Consume more of a recognised request's body; returns the data after it."""
        piece = data[: self.missing]
        self._add_to_body(piece)
        self.body_bytes += len(piece)
        self.missing -= len(piece)
        if not self.missing:
            assert self.known_head is not None
            self._answer(self.known_head.admission, self._take_body())
        return data[len(piece) :]

    def _add_to_body(self, piece: bytes) -> None:
        """Most bodies are one piece; many small ones must not cost more than their bytes."""
        if not self.body:
            self.body = piece
            return
        if isinstance(self.body, bytes):
            self.body = bytearray(self.body)
        self.body += piece

    def _take_body(self) -> bytes:
        body, self.body = self.body, b""
        return bytes(body)

    def _admit(self) -> Admission | None:
        """The admission of the head just parsed; None if the request must go to the ASGI app."""
        url = self.url
        if self.parser.get_method() != b"POST" or not url.startswith(b"/"):
            return None
        if b"?" in url or b"#" in url or self.parser.get_http_version() != "1.1":
            return None
        length = None
        for name, value in self.headers:
            if name in SPECIAL or (name == b"connection" and value.lower() != b"keep-alive"):
                return None
            if name == b"content-length":
                length = value
        if length is None or not length.isdigit() or int(length) > self.limit:
            return None
        path = url.decode("ascii")
        head = RequestHead("POST", unquote(path), b"", self.headers, self._client())
        match = self.dispatcher.find(head, url)
        if match is None:
            return None
        admission = self.dispatcher.admit(head, match)
        return admission if admission.refusal is None and admission.route.fast else None

    def _client(self) -> str:
        peer = self.client[0] if self.client else ""
        return self.addresses.of(peer, self.headers)

    def _answer(self, admission: Admission, body: bytes) -> None:
        response = PendingResponse(self)
        self.pending.append(response)
        if len(self.pending) >= MOST_WAITING:
            self.flow.pause_reading()
        self.last_used = self.dispatcher.dispatch(admission, body, response).started

    def advance(self) -> None:
        """Write the responses that no earlier request holds back."""
        pending = self.pending
        ready: list[bytes] = []
        while pending and (data := pending[0].data) is not None:
            ready.append(data)
            pending.popleft()
        self.server_state.total_requests += len(ready)
        if self.transport.is_closing():
            return
        self.transport.write(ready[0] if len(ready) == 1 else b"".join(ready))
        if not pending:
            self._drained()

    def _drained(self) -> None:
        """No response is pending: close, or continue with what waited for that."""
        if self.ending:
            self.transport.close()
        elif self.pipeline:
            cycle, app = self.pipeline.pop()
            super()._start_asgi_task(cycle, app)
        else:
            if self.flow.read_paused:
                self._read_on()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Hand a request to the ASGI app, after the responses before it."""
        if self.pending:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, app))
        else:
            super()._start_asgi_task(cycle, app)

    def refuse(self, status: int) -> None:
        """Answer outside the ASGI app and close, after the responses before it."""
        if not self.pending:
            super().refuse(status)
            return
        self.ending = True
        response = PendingResponse(self)
        self.pending.append(response)
        block = b"content-type: text/plain; charset=utf-8\r\n"
        response(Response(REASONS[status].encode(), status), block)

    def _read_on(self) -> None:
        """Resume reading, unless something else has paused it."""
        if self._asgi_idle() and not self.pipeline and not self.flow.write_paused:
            self.flow.resume_reading()

    # Deadlines

    def is_answering(self) -> bool:
        return bool(self.pending) or super().is_answering()

    def is_idle(self) -> bool:
        return not self.pending and not self.missing and super().is_idle()


def protocol_class(app: ServingApp) -> type[FastProtocol]:
    """The HTTP protocol class for uvicorn's `http=` that serves an app."""
    settings = app.service.settings
    client_addresses = ClientAddresses(settings.trusted_proxies)

    class ConfiguredProtocol(FastProtocol):
        dispatcher = app.service.dispatcher
        limit = settings.max_body
        addresses = client_addresses
        limits = ConnectionLimits(settings, client_addresses)
        defaults = DefaultLines()

    return ConfiguredProtocol

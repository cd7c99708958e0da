"""The fast lane: plain POSTs answered inside uvicorn's own HTTP protocol, without an ASGI cycle.

Three ways, from quick to slow, and the answer is the same on each because `Gateway` makes it:

1. A request whose head is, but for the length, the one that this connection sent last (what
   keep-alive clients do) is recognised by comparing bytes; it is not parsed again.
2. A plain POST to a fast route is parsed by httptools and answered when its last byte is there.
3. Everything else (other verbs, queries, chunked bodies, Expect, HTTP/1.0, refusals, upgrades) goes
   uvicorn's way through the ASGI app.

Answers leave in the order of the requests, whichever way each went.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import Any
from urllib.parse import unquote

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tidemill.serving.http.addresses import Addresses, DefaultLines
from tidemill.serving.http.asgi import App
from tidemill.serving.http.dispatcher import Gateway
from tidemill.serving.http.routes import Admission, Head, Reply

MOST_WAITING = 64  # answers a connection may have outstanding before it is not read any more
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
#: Headers with which a request goes the ordinary way.
SPECIAL = frozenset({b"transfer-encoding", b"expect", b"upgrade"})
MOST_HEAD = 64 << 10  # bytes that a head may go on for after the read that it began in


class Template(msgspec.Struct, frozen=True):
    """A head that was admitted, cut in two where the digits of its content length stood."""

    before: bytes
    after: bytes
    admission: Admission
    generation: object


class Slot:
    """The place of one answer in the order of a connection; called with the answer."""

    __slots__ = ("data", "lane")

    def __init__(self, lane: FastLane) -> None:
        self.lane = lane
        self.data: bytes | None = None

    def __call__(self, reply: Reply, block: bytes) -> None:
        lane = self.lane
        slots = lane.slots
        if lane.ending and slots[-1] is self:
            block += b"connection: close\r\n"
        body = reply.body
        self.data = b"".join(
            (
                STATUS_LINE[reply.status],
                lane.defaults.of(lane.server_state.default_headers),
                block,
                b"content-length: %d\r\n\r\n" % len(body),
                body,
            )
        )
        if slots[0] is self:
            lane.advance()


class FastLane(HttpToolsProtocol):
    """One connection. `gateway` and what belongs to it are set by `fast_lane`."""

    gateway: Gateway
    limit: int
    addresses: Addresses
    defaults: DefaultLines
    leaving = False  # set on the class when the server turns its callers away

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.slots: deque[Slot] = deque()
        self.template: Template | None = None
        self.admission: Admission | None = None  # of the request that is being parsed, if fast
        self.pieces: list[bytes] = []
        self.missing = 0  # bytes of a recognised request's body that are yet to come
        self.between = True  # the parser is between two messages
        self.chunk = b""  # what began with the message that is being parsed
        self.in_head = False  # the parser is in the middle of a head
        self.began = False  # ... which began in what was read last
        self.head_size = 0
        self.ending = self.leaving  # close when the outstanding answers have left
        self.last_used = 0.0
        self.idle_timer: asyncio.TimerHandle | None = None

    # From the transport

    def data_received(self, data: bytes) -> None:
        while data and self.template is not None and self._only_fast():
            rest = self._recognise(data)
            if rest is None:
                break
            data = rest
        if data:
            self._parse(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.idle_timer is not None:
            self.idle_timer.cancel()
        self.slots.clear()
        self.pieces = []
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read: stop reading what it asks, too."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_on()

    def shutdown(self) -> None:
        """End gracefully: what was asked is answered first."""
        if self.slots or self.admission is not None or self.missing:
            self.ending = True
        else:
            super().shutdown()

    # From the parser

    def on_message_begin(self) -> None:
        """Begin as uvicorn does, but for the ASGI scope, which only the ordinary way needs."""
        self.between = False
        self.in_head = self.began = True
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self.in_head = False
        admission = self._admit() if self._only_fast() else None
        if admission is None:
            self._make_scope()
            super().on_headers_complete()
            return
        self.admission = admission
        self.pieces = []

    def on_body(self, body: bytes) -> None:
        if self.admission is None:
            super().on_body(body)
        else:
            self.pieces.append(body)

    def on_message_complete(self) -> None:
        self.between = True
        admission, self.admission = self.admission, None
        if admission is None:
            super().on_message_complete()
            return
        self._learn(admission)
        self._answer(admission, b"".join(self.pieces))

    def _parse(self, data: bytes) -> None:
        if self.between and data.startswith(b"POST "):
            self.chunk = data
        self.began = False
        super().data_received(data)
        if not self.in_head or self.began:
            self.head_size = 0
            return
        self.head_size += len(data)
        if self.head_size > MOST_HEAD and not self.transport.is_closing():
            self.transport.write(
                STATUS_LINE[431] + b"connection: close\r\ncontent-length: 0\r\n\r\n"
            )
            self.transport.close()

    def _make_scope(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers = self.scope["headers"] = headers

    # The fast ways

    def _only_fast(self) -> bool:
        """Whether no request is on the ordinary way, which keeps its own order."""
        return self.cycle is None or self.cycle.response_complete

    def _recognise(self, data: bytes) -> bytes | None:
        """Take one request of the template's form, or part of one, off the data.

        Returns:
            What follows it; None when the data has to be parsed.
        """
        if self.missing:
            return self._continue(data)
        template = self.template
        assert template is not None
        if not self.between or not data.startswith(template.before):
            return None
        start = len(template.before)
        end = data.find(b"\r", start, start + 10)
        digits = data[start:end]
        if end < 0 or not digits.isdigit() or not data.startswith(template.after, end):
            return None
        length = int(digits)
        if length > self.limit or template.generation is not self.gateway.keys.generation:
            return None
        self._unset_keepalive_if_required()
        first = end + len(template.after)
        last = first + length
        body = data[first:last]
        if len(body) < length:
            self.pieces, self.missing = [body], length - len(body)
            return b""
        self._answer(template.admission, body)
        return data[last:]

    def _continue(self, data: bytes) -> bytes:
        """More of a recognised request's body."""
        piece = data[: self.missing]
        self.pieces.append(piece)
        self.missing -= len(piece)
        if not self.missing:
            assert self.template is not None
            pieces, self.pieces = self.pieces, []
            self._answer(self.template.admission, b"".join(pieces))
        return data[len(piece) :]

    def _admit(self) -> Admission | None:
        """The admission of the head just parsed, if it may go the fast way."""
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
        head = Head("POST", unquote(path), b"", self.headers, self._client())
        match = self.gateway.find(head, url)
        if match is None:
            return None
        admission = self.gateway.admit(head, match)
        return admission if admission.refusal is None and admission.route.fast else None

    def _client(self) -> str:
        peer = self.client[0] if self.client else ""
        return self.addresses.behind(peer, self.headers)

    def _learn(self, admission: Admission) -> None:
        """Remember the head, to recognise the next one by its bytes."""
        chunk, self.chunk = self.chunk, b""
        end = chunk.find(b"\r\n\r\n")
        if not chunk.startswith(b"POST ") or end < 0:
            return
        head = chunk[: end + 4]
        found = LENGTH.findall(head)
        if len(found) == 1 and head.count(b"\r\n") == len(admission.head.headers) + 2:
            match = LENGTH.search(head)
            assert match is not None
            before, after = head[: match.start(1)], head[match.end(1) :]
            generation = self.gateway.keys.generation
            self.template = Template(before, after, admission, generation)

    def _answer(self, admission: Admission, body: bytes) -> None:
        slot = Slot(self)
        self.slots.append(slot)
        if len(self.slots) >= MOST_WAITING:
            self.flow.pause_reading()
        self.last_used = self.gateway.answer(admission, body, slot).started

    def advance(self) -> None:
        """Write the answers whose turn it is."""
        slots = self.slots
        ready: list[bytes] = []
        while slots and (data := slots[0].data) is not None:
            ready.append(data)
            slots.popleft()
        self.server_state.total_requests += len(ready)
        if self.transport.is_closing():
            return
        self.transport.write(ready[0] if len(ready) == 1 else b"".join(ready))
        if not slots:
            self._drained()

    def _drained(self) -> None:
        """No answer is outstanding: go on to what waited for that."""
        if self.ending:
            self.transport.close()
        elif self.pipeline:
            cycle, app = self.pipeline.pop()
            super()._start_asgi_task(cycle, app)
        else:
            if self.flow.read_paused:
                self._read_on()
            if self.idle_timer is None:
                self._arm(self.timeout_keep_alive)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Start a request on the ordinary way, after the answers before it."""
        if self.slots:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, app))
        else:
            super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """Tell that what came is not HTTP, after the answers before it."""
        if not self.slots:
            super().send_400_response(msg)
            return
        self.ending = True
        slot = Slot(self)
        self.slots.append(slot)
        slot(Reply(msg.encode(), 400), b"content-type: text/plain; charset=utf-8\r\n")

    def _read_on(self) -> None:
        """Read again, where nothing stands against it."""
        if self._only_fast() and not self.pipeline and not self.flow.write_paused:
            self.flow.resume_reading()

    # Idle connections: one timer that looks back, rather than one set anew for every answer

    def on_response_complete(self) -> None:
        self.last_used = self.loop.time()
        super().on_response_complete()

    def _arm(self, seconds: float) -> None:
        self.idle_timer = self.loop.call_later(seconds, self._look_idle)

    def _look_idle(self) -> None:
        self.idle_timer = None
        if self.transport is None or self.transport.is_closing():
            return
        busy = self.slots or self.missing or not self.between or not self._only_fast()
        left = self.timeout_keep_alive - (self.loop.time() - self.last_used)
        if busy:
            self._arm(self.timeout_keep_alive)
        elif left > 0.001:
            self._arm(left)
        else:
            self.transport.close()


def fast_lane(app: App) -> type[HttpToolsProtocol]:
    """The protocol class that serves an app on both lanes, for uvicorn's `http=`."""
    settings = app.service.settings

    class Lane(FastLane):
        gateway = app.service.gateway
        limit = settings.max_body
        addresses = Addresses(settings.trusted_proxies)
        defaults = DefaultLines()

    return Lane

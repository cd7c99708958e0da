"""The ASGI app of the data plane. It passes paths it does not know to the control plane."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tidemill.errors import TooLargeError
from tidemill.serving.http.routes import Admission, RequestHead, Response
from tidemill.serving.service import Service

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class ServingApp:
    """The data plane as an ASGI app.

    Args:
        fallback: The app for every path that the data plane does not know.
    """

    def __init__(self, service: Service, fallback: ASGIApp | None = None) -> None:
        self.service = service
        self._fallback = fallback
        self._dispatcher = service.dispatcher
        self._limit = service.settings.max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        elif self._fallback is not None:
            await self._fallback(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = _head(scope)
        match = self._dispatcher.find(head, scope.get("raw_path"))
        if match is None and self._fallback is not None:
            await self._call_fallback(scope, receive, send)
            return
        admission = self._dispatcher.admit(head, match)
        body: bytes | None = b""
        if head.method == "POST" and admission.refusal is None:
            body = await self._body(admission, receive)
        if body is None:
            return
        response, block = await self._dispatch(admission, body)
        closing = _must_close(admission) or self.service.models.draining
        await send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": _headers(response, block, closing=closing),
            }
        )
        await send({"type": "http.response.body", "body": response.body})

    async def _dispatch(self, admission: Admission, body: bytes) -> tuple[Response, bytes]:
        """The response and its header lines, once it may be sent."""
        future: asyncio.Future[tuple[Response, bytes]] = asyncio.get_running_loop().create_future()

        def respond(response: Response, block: bytes) -> None:
            if not future.done():
                future.set_result((response, block))

        self._dispatcher.dispatch(admission, body, respond)
        return await future

    async def _body(self, admission: Admission, receive: Receive) -> bytes | None:
        """The whole body; None if the client disconnected. A body over the limit sets the
        admission's refusal, after up to twice the limit was read, so that most clients read the
        response before they notice that the connection is closed."""
        declared = admission.head.header(b"content-length")
        expects = admission.head.header(b"expect") is not None
        too_large = declared is not None and declared.isdigit() and int(declared) > self._limit
        body = bytearray()
        size = 0
        more = not (too_large and expects)
        while more and size <= 2 * self._limit:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            too_large = too_large or size > self._limit
            if too_large:
                body.clear()
            else:
                body += chunk
            more = message.get("more_body", False)
        if too_large:
            admission.refusal = _too_large(self._limit)
        return bytes(body)

    async def _call_fallback(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the control plane answer, and count the response under its route template."""
        assert self._fallback is not None
        status = 500
        started = time.monotonic()

        async def recording(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._fallback(scope, receive, recording)
        finally:
            route = getattr(scope.get("route"), "path", None) or "unmatched"
            series = self.service.metrics.request(_verb(scope["method"]), route, status)
            series.observe(time.monotonic() - started)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start and stop the service, with the fallback inside."""
        if self._fallback is None:
            await receive()
            await self.service.start()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.service.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await self._nested_lifespan(self._fallback, scope, receive, send)

    async def _nested_lifespan(
        self, fallback: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        started = False

        async def receiving() -> Message:
            nonlocal started
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.service.start()
                started = True
            return message

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"].startswith("lifespan.shutdown") and started:
                await self.service.stop()
                started = False
            await send(message)

        try:
            await fallback(scope, receiving, sending)
        finally:
            if started:
                await self.service.stop()


def _head(scope: Scope) -> RequestHead:
    client = scope.get("client")
    return RequestHead(
        scope["method"], scope["path"], scope.get("query_string", b""), scope["headers"],
        client[0] if client else "",
    )  # fmt: skip


def _headers(response: Response, block: bytes, *, closing: bool) -> list[tuple[bytes, bytes]]:
    headers = []
    for line in block.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b": ")
        headers.append((name, value))
    headers.append((b"content-length", b"%d" % len(response.body)))
    if closing:
        headers.append((b"connection", b"close"))
    return headers


def _must_close(admission: Admission) -> bool:
    """Whether part of the request stays unread, so the connection cannot be reused: a body over
    the limit, or one that the client sends only after `100 Continue`."""
    if admission.refusal is None:
        return False
    unread = isinstance(admission.refusal, TooLargeError)
    return unread or admission.head.header(b"expect") is not None


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(
        f"The body is larger than {limit} bytes.",
        expected=f"at most {limit} bytes",
        remedy="Send fewer rows at once, or raise TIDEMILL_MAX_BODY.",
    )


def _verb(method: str) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    return method if method in known else "OTHER"

"""Around every request: its id, its size, its time, its place in the log."""

from __future__ import annotations

import secrets
import time
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.api.problems import problem_response
from tidemill.api.state import ApiState
from tidemill.errors import MalformedError, TidemillError, TooLargeError
from tidemill.stores.request_log import LoggedRequest

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class RequestRecorder:
    """Outermost: gives each request an id, and notes how it was answered."""

    def __init__(self, app: ASGIApp, state: ApiState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, clock = time.time(), time.perf_counter()
        request_id = _request_id(scope)
        own = scope.setdefault("state", {})
        own["request_id"] = request_id
        structlog.contextvars.bind_contextvars(request_id=request_id)
        status = 500

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers.update(own.get("headers", {}))
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        finally:
            self._note(scope, own, began, time.perf_counter() - clock, status)

    def _note(
        self, scope: Scope, own: dict[str, Any], began: float, seconds: float, status: int
    ) -> None:
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        route = getattr(scope.get("route"), "path", "unknown")
        caller = own.get("caller")
        self._state.metrics.observe(method, route, status, seconds)
        self._state.platform.requests.add(
            LoggedRequest(
                time=began,
                method=method,
                route=route,
                path=scope["path"].replace("\0", ""),
                status=status,
                milliseconds=seconds * 1000,
                address=scope["client"][0] if scope.get("client") else None,
                key_id=caller.key_id if caller else None,
                request_id=own["request_id"],
            )
        )


class BodyLimit:
    """Refuses bodies over the limit, by what is announced and by what arrives."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refuse(scope)
        if refusal is not None:
            await problem_response(refusal)(scope, receive, send)
            return
        body = await self._read(receive)
        if body is None:
            await problem_response(self._too_large())(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    def _refuse(self, scope: Scope) -> TidemillError | None:
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            return MalformedError("A zero byte in the address.", field="path")
        announced = Headers(scope=scope).get("content-length", "0")
        if not announced.isdigit():
            return MalformedError("Content-Length is not a number.", field="Content-Length")
        return self._too_large() if int(announced) > self._limit else None

    def _too_large(self) -> TooLargeError:
        return TooLargeError(
            f"The body is larger than {self._limit} bytes.",
            field="body",
            remedy="The operator may raise TIDEMILL_API_MAX_BODY.",
        )

    async def _read(self, receive: Receive) -> bytes | None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return bytes(body)
            body += message.get("body", b"")
            if len(body) > self._limit:
                return None
            if not message.get("more_body", False):
                return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    fits = 0 < len(given) <= 128 and given.isascii() and given.isprintable()
    return given if fits else secrets.token_hex(16)

"""ASGI middleware around every request: its log entry and metrics, and its trace."""

from __future__ import annotations

import secrets
import time
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.api.dependencies import ApiState
from tidemill.stores.request_log import LoggedRequest
from tidemill.traces import Traces, fail, valid_traceparent

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class RequestRecorder:
    """Gives each request an id, logs it and counts it. Outermost, so that it sees every response.

    Adds `X-Request-ID` and the headers in `request.state.headers` to the response.
    """

    def __init__(self, app: ASGIApp, state: ApiState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, clock = time.time(), time.perf_counter()
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        structlog.contextvars.bind_contextvars(request_id=request_id)
        status = 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers.update(state.get("headers", {}))
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self._record(scope, started, time.perf_counter() - clock, status)

    def _record(self, scope: Scope, started: float, seconds: float, status: int) -> None:
        state: dict[str, Any] = scope["state"]
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        route = getattr(scope.get("route"), "path", "unknown")
        caller = state.get("caller")
        self._state.metrics.observe(method, route, status, seconds)
        self._state.platform.requests.add(
            LoggedRequest(
                time=started,
                method=method,
                route=route,
                path=scope["path"],
                status=status,
                milliseconds=seconds * 1000,
                address=scope["client"][0] if scope.get("client") else None,
                key_id=caller.key_id if caller else None,
                request_id=state["request_id"],
            )
        )


class Tracing:
    """Starts a span per request if tracing is on.

    Sets `request.state.traceparent` to the span, or to the caller's span if tracing is off. Jobs
    that the request submits continue the trace.
    """

    def __init__(self, app: ASGIApp, traces: Traces | None) -> None:
        self._app = app
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["traceparent"] = valid_traceparent(Headers(scope=scope).get("traceparent"))
        if self._traces is None:
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        span = self._traces.start(
            method, state["traceparent"], {"http.request.method": method}, kind="SERVER"
        )
        state["traceparent"] = self._traces.name(span)

        async def send_with_status(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                span.set_attribute("http.response.status_code", status)
                if status >= 500:
                    fail(span, str(status))
            await send(message)

        try:
            await self._app(scope, receive, send_with_status)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            span.update_name(f"{method} {route}")
            span.set_attribute("http.route", route)
            span.end()


def _request_id(scope: Scope) -> str:
    """The caller's X-Request-ID if it is short and printable, otherwise a new id."""
    given = Headers(scope=scope).get("x-request-id", "")
    valid = 0 < len(given) <= 128 and given.isascii() and given.isprintable()
    return given if valid else secrets.token_hex(16)

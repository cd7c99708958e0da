"""Which span a request belongs to: its caller's, or one of its own where traces are asked for."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.traces import Traces, fail, valid_traceparent


class Tracing:
    """Sets `request.state.traceparent`, under which the jobs go on that the request asks for."""

    def __init__(self, app: ASGIApp, traces: Traces | None) -> None:
        self._app = app
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own = scope.setdefault("state", {})
        own["traceparent"] = valid_traceparent(Headers(scope=scope).get("traceparent"))
        if self._traces is None:
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        span = self._traces.start(
            method, own["traceparent"], {"http.request.method": method}, kind="SERVER"
        )
        own["traceparent"] = self._traces.name(span)

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                span.set_attribute("http.response.status_code", status)
                if status >= 500:
                    fail(span, str(status))
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            span.update_name(f"{method} {route}")
            span.set_attribute("http.route", route)
            span.end()

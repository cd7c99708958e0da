"""Traces of the data plane: a span for each request, with a child span for the model run.

`Service` uses `TracedDispatcher` only if traces are on, so tracing costs nothing otherwise.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tidemill.serving.http.dispatcher import Dispatcher, Respond
from tidemill.serving.http.routes import Admission, Request, Response
from tidemill.serving.model.batching import BatchItem
from tidemill.traces import Traces, fail, valid_traceparent

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class TracedResponder:
    """Sends the response of one request and ends its span."""

    __slots__ = ("_respond", "span")

    def __init__(self, respond: Respond, span: Span) -> None:
        self._respond = respond
        self.span = span

    def __call__(self, response: Response, block: bytes) -> None:
        self.span.set_attribute("http.response.status_code", response.status)
        if response.status >= 500:
            fail(self.span, str(response.status))
        self.span.end()
        self._respond(response, block)


class TracedDispatcher(Dispatcher):
    """Starts a span for every request, as a child of the caller's span if the request names one."""

    def __init__(self, traces: Traces, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._traces = traces

    def dispatch(self, admission: Admission, body: bytes, respond: Respond) -> Request:
        head, route = admission.head, admission.route.path
        given = head.header(b"traceparent") or b""
        span = self._traces.start(
            f"{head.method} {route}",
            valid_traceparent(given.decode("latin-1")),
            {"http.request.method": head.method, "http.route": route},
            kind="SERVER",
        )
        return super().dispatch(admission, body, TracedResponder(respond, span))


class RunTracer:
    """Adds a span for a model run to each of the requests that were run together."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces

    def __call__(
        self, name: str, version: str, works: list[BatchItem], rows: int, seconds: float
    ) -> None:
        end = time.time_ns()
        for work in works:
            if not isinstance(work.request.respond, TracedResponder):
                continue  # a shadowed request has no span of its own
            span = self._traces.start(
                "inference",
                work.request.respond.span,
                {
                    "tidemill.model": name,
                    "tidemill.version": version,
                    "tidemill.batch.requests": len(works),
                    "tidemill.batch.rows": rows,
                },
                start=end - int(seconds * 1e9),
            )
            span.end(end)

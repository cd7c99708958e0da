"""Traces of the data plane: a span for each request, and one within it for the model's run.

The ordinary gateway knows nothing of this: `Service` takes this one where traces are asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tidemill.serving.http.dispatcher import Dispatcher, Respond
from tidemill.serving.http.routes import Admission, Request, Response
from tidemill.serving.model.batching import BatchItem
from tidemill.traces import Traces, fail, valid_traceparent

if TYPE_CHECKING:
    from opentelemetry.trace import Span

#: Told of every run of a model: its name, version, the requests in it, rows, seconds.
OnRun = Callable[[str, str, list[BatchItem], int, float], None]


class TracedResponder:
    """Sends a call's answer, and ends its span."""

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
    """Begins a span when a request came, as the child of the caller's, if it names one."""

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

    def ran(
        self, name: str, version: str, works: list[BatchItem], rows: int, seconds: float
    ) -> None:
        """Give each request of a run a span for it: they were answered together."""
        end = time.time_ns()
        for work in works:
            if not isinstance(work.request.respond, TracedResponder):
                continue  # a challenger's own run, in nobody's time
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

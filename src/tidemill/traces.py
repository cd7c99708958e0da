"""OpenTelemetry traces, by the extra `otel`: nothing of it is imported unless they are asked for.

They are asked for by the standard variables: OTEL_EXPORTER_OTLP_ENDPOINT (or its TRACES form), or
OTEL_TRACES_EXPORTER=otlp. Spans leave over OTLP/HTTP, from a thread, in batches.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tidemill.errors import SettingsError

if TYPE_CHECKING:
    from opentelemetry.trace import Span

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
#: Version 00 of W3C Trace Context; an id of zeros alone is none.
TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def enabled(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment asks for traces."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "")
    if exporter:
        return exporter == "otlp"
    return any(environment.get(name) for name in ENDPOINTS)


def valid_traceparent(text: str | None) -> str | None:
    """The header, if it names a span; None otherwise."""
    return text if text is not None and TRACEPARENT.fullmatch(text) else None


def open_traces(service: str) -> Traces | None:
    """Where spans go, if the environment asks for traces.

    Args:
        service: What the process is called, unless OTEL_SERVICE_NAME names it.

    Raises:
        SettingsError: Traces are asked for, and the extra is not installed.
    """
    return Traces(service) if enabled() else None


class Traces:
    """Makes spans and sends them. Not to be carried over a fork: its thread would stay behind."""

    def __init__(self, service: str) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise SettingsError(
                "The environment asks for traces, but OpenTelemetry is not installed.",
                field="OTEL_EXPORTER_OTLP_ENDPOINT",
                remedy="pip install 'tidemill[otel]', or set OTEL_SDK_DISABLED=true.",
            ) from error
        named = os.environ.get("OTEL_SERVICE_NAME")
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": named or service})
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("tidemill")
        self._context = trace.set_span_in_context
        self._w3c = TraceContextTextMapPropagator()
        self._kinds = trace.SpanKind

    def start(
        self, name: str, parent: Span | str | None = None,
        attributes: Mapping[str, str | int] | None = None,
        *, kind: str = "INTERNAL", start: int | None = None,
    ) -> Span:  # fmt: skip
        """Begin a span; the caller ends it.

        Args:
            parent: A span, or the `traceparent` that names one elsewhere.
            kind: SERVER, CONSUMER or INTERNAL.
            start: When it began, in nanoseconds since the epoch; by default now.
        """
        context = None
        if isinstance(parent, str):
            context = self._w3c.extract({"traceparent": parent})
        elif parent is not None:
            context = self._context(parent)
        return self._tracer.start_span(
            name, context, self._kinds[kind], attributes, start_time=start
        )

    def name(self, span: Span) -> str:
        """The `traceparent` by which another process continues the span."""
        carrier: dict[str, str] = {}
        self._w3c.inject(carrier, self._context(span))
        return carrier["traceparent"]

    def close(self) -> None:
        """Send what is left; a process that ends by itself does it at its end."""
        self._provider.shutdown()


def fail(span: Span, why: str) -> None:
    """Mark the span as failed."""
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR, why))

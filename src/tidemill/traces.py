"""OpenTelemetry traces, with the extra `otel`, which is imported only if traces are enabled.

The standard variables enable them: OTEL_EXPORTER_OTLP_ENDPOINT (or its TRACES form), or
OTEL_TRACES_EXPORTER=otlp. A thread sends the spans in batches over OTLP/HTTP. See decision 151.
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
#: Version 00 of W3C Trace Context; ids of zeros are invalid.
TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def enabled(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment enables traces."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "")
    if exporter:
        return exporter == "otlp"
    return any(environment.get(name) for name in ENDPOINTS)


def valid_traceparent(text: str | None) -> str | None:
    """The `traceparent` header if it is valid, else None."""
    return text if text is not None and TRACEPARENT.fullmatch(text) else None


def open_traces(service: str) -> Traces | None:
    """The exporter of spans; None if traces are not enabled.

    Args:
        service: The service name, unless OTEL_SERVICE_NAME is set.

    Raises:
        SettingsError: Traces are enabled, but the extra `otel` is not installed.
    """
    return Traces(service) if enabled() else None


class Traces:
    """Creates and exports spans. Not usable after a fork, which does not copy its thread."""

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
                "Traces are enabled, but OpenTelemetry is not installed.",
                field="OTEL_EXPORTER_OTLP_ENDPOINT",
                remedy="pip install 'tidemill[otel]', or set OTEL_SDK_DISABLED=true.",
            ) from error
        name = os.environ.get("OTEL_SERVICE_NAME")
        self._provider = TracerProvider(resource=Resource.create({"service.name": name or service}))
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
        """Start a span; the caller ends it.

        Args:
            parent: A span, or the `traceparent` of one in another process.
            kind: SERVER, CONSUMER or INTERNAL.
            start: Start time in nanoseconds since the epoch; by default now.
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
        """The `traceparent` with which another process continues the span."""
        carrier: dict[str, str] = {}
        self._w3c.inject(carrier, self._context(span))
        return carrier["traceparent"]

    def close(self) -> None:
        """Send the remaining spans. A process that exits normally does this on its own."""
        self._provider.shutdown()


def fail(span: Span, why: str) -> None:
    """Mark the span as failed."""
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR, why))

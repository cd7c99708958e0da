"""Turns errors into responses, counts responses, and sends them."""

from __future__ import annotations

import logging
import time

from tidemill.errors import MethodError, RateLimitError, TidemillError, UnavailableError
from tidemill.serving.http.routes import Request, Response, Route
from tidemill.serving.telemetry.metrics import Histogram, Metrics

log = logging.getLogger(__name__)


class Responder:
    """The way out of the server, for every protocol.

    Args:
        access_log: Whether every request is logged.
    """

    def __init__(self, metrics: Metrics, *, access_log: bool = False) -> None:
        self._metrics = metrics
        self._series: dict[tuple[Route, str, int], Histogram] = {}
        self._access_log = logging.getLogger("tidemill.access") if access_log else None

    def handle_error(self, request: Request, error: Exception) -> Response | None:
        """The response for an error. If a canary failed, the champion handles the request instead;
        None when it will answer later."""
        canary, request.canary = request.canary, None
        if canary is not None:
            request.champion_only = True
            try:
                response = request.admission.route.handler(request)
            except Exception as again:  # the champion refuses the request, too
                return self.handle_error(request, again)
            canary.fell_back()
            return response
        if isinstance(error, TidemillError):
            return self.error_response(request, error)
        log.error("%s failed", request.admission.route.path, exc_info=error)
        return self.error_response(request, TidemillError("The server failed on this request."))

    def error_response(self, request: Request, error: TidemillError) -> Response:
        """The error in the format of the request's route, with the headers that belong to it."""
        response = request.admission.route.problem(error)
        if isinstance(error, RateLimitError) and request.admission.bucket is not None:
            wait = b"%d" % request.admission.bucket.retry_after()
            response.headers = (*response.headers, (b"retry-after", wait))
        elif isinstance(error, UnavailableError):
            response.headers = (*response.headers, (b"retry-after", b"1"))
        elif isinstance(error, MethodError) and error.expected:
            response.headers = (*response.headers, (b"allow", error.expected.encode()))
        return response

    def send(self, request: Request, response: Response) -> None:
        """Count the response and send it."""
        admission = request.admission
        method = admission.head.method
        series = self._series.get((admission.route, method, response.status))
        if series is None:
            series = self._new_series(admission.route, method, response.status)
        elapsed = time.monotonic() - request.started
        series.observe(elapsed)
        if self._access_log is not None:
            self._log(self._access_log, request, response, elapsed)
        block = b"content-type: %b\r\nx-request-id: %b\r\n%b" % (
            response.content_type, (admission.request_id or request.id).encode(), admission.extra,
        )  # fmt: skip
        if admission.bucket is not None:
            block += admission.bucket.lines()
        for header in response.headers:
            block += b"%b: %b\r\n" % header
        request.respond(response, block)

    def _new_series(self, route: Route, method: str, status: int) -> Histogram:
        known = method if method in ("GET", "HEAD", "POST", "OPTIONS") else "OTHER"
        series = self._metrics.request(known, route.path, status)
        if known == method:
            self._series[route, method, status] = series
        return series

    def _log(
        self, access_log: logging.Logger, request: Request, response: Response, elapsed: float
    ) -> None:
        head = request.head
        access_log.info(
            "%s %s %d", head.method, head.path, response.status,
            extra={
                "client": head.client,
                "ms": round(elapsed * 1000, 3),
                "request_id": request.admission.request_id or request.id,
                "key_id": request.admission.key_id,
            },
        )  # fmt: skip

"""The one core of both lanes: find the route, admit the caller, answer, count."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tidemill.errors import (
    AccessError,
    MediaTypeError,
    MethodError,
    NotFoundError,
    RateLimitError,
    TidemillError,
    UnavailableError,
)
from tidemill.serving.http.api_keys import ApiKeys
from tidemill.serving.http.rate_limits import RateLimiter, TokenBucket
from tidemill.serving.http.routes import (
    Admission,
    Request,
    RequestHead,
    Response,
    Route,
    RouteMatch,
    Router,
    allowed,
)
from tidemill.serving.journal.prediction_ids import REQUEST_ID, id_source, trace_id
from tidemill.serving.telemetry.metrics import Histogram, Metrics

log = logging.getLogger(__name__)
Respond = Callable[[Response, bytes], None]


def _unreachable(request: Request) -> Response:
    raise NotFoundError(f"There is no {request.head.path[:200]} here.")


#: The route of what has no route.
UNMATCHED = Route("*", "unmatched", _unreachable)


class Dispatcher:
    """What stands before the handlers.

    Args:
        callers: The shares of keys (of addresses, when keys are off).
        strangers: The shares of addresses that show no valid key.
        access_log: Whether every request is logged.
    """

    def __init__(
        self, router: Router, keys: ApiKeys, callers: RateLimiter, strangers: RateLimiter,
        metrics: Metrics, *, access_log: bool = False,
    ) -> None:  # fmt: skip
        self.router = router
        self.keys = keys
        self.next_id = id_source()
        self._callers = callers
        self._strangers = strangers
        self._metrics = metrics
        self._limited = metrics.counter("tidemill_rate_limited_total")
        self._series: dict[tuple[Route, str, int], Histogram] = {}
        self._access_log = logging.getLogger("tidemill.access") if access_log else None

    def find(self, head: RequestHead, raw_path: bytes | None = None) -> RouteMatch | None:
        """The data plane's routes for the path; None when the path is not its own."""
        return self.router.find(head.path, raw_path)

    def admit(self, head: RequestHead, match: RouteMatch | None) -> Admission:
        """What the head decides. Never raises: a refusal is part of the admission."""
        if match is None:
            missing = NotFoundError(f"There is no {head.path[:200]} here.")
            return self._refused(UNMATCHED, head, missing)
        method = "GET" if head.method == "HEAD" else head.method
        route = match.methods.get(method)
        if route is None:
            what = f"{head.path[:200]} does not take {head.method[:20]}."
            error = MethodError(what, expected=allowed(match.methods))
            return self._refused(next(iter(match.methods.values())), head, error)
        admission = Admission(route, head, match.params)
        self._identify(admission)
        try:
            self._check_access(admission)
            _check_media(head, route)
        except TidemillError as error:
            admission.refusal = error
        return admission

    def dispatch(self, admission: Admission, body: bytes, respond: Respond) -> Request:
        """Have the request answered: `respond` is called once, now or later on this thread."""
        now = time.monotonic()
        request = Request(admission, body, self.next_id(), now, respond)
        bucket = admission.bucket
        try:
            if bucket is not None and not bucket.take(now):
                raise self._over(bucket)
            if admission.refusal is not None:
                raise admission.refusal
            if now > admission.deadline:
                raise AccessError("The API key has expired.", remedy="Ask for a new one.")
            response = admission.route.handler(request)
        except Exception as error:
            response = self.handle_error(request, error)
        if response is not None:
            self.send(request, response)
        return request

    def handle_error(self, request: Request, error: Exception) -> Response | None:
        """What to tell of an error. Where a canary met it, the champion is asked instead; None when
        it will answer."""
        canary, request.canary = request.canary, None
        if canary is not None:
            request.champion_only = True
            try:
                response = request.admission.route.handler(request)
            except Exception as again:  # the champion does not take it, either
                return self.handle_error(request, again)
            canary.fell_back()
            return response
        if isinstance(error, TidemillError):
            return self.error_response(request, error)
        log.error("%s failed", request.admission.route.path, exc_info=error)
        return self.error_response(request, TidemillError("The server failed on this request."))

    def error_response(self, request: Request, error: TidemillError) -> Response:
        """The error in the shape of the call's route, with the headers that belong to it."""
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
        """Count the reply and send it."""
        admission = request.admission
        method = admission.head.method
        series = self._series.get((admission.route, method, response.status))
        if series is None:
            series = self._new_series(admission.route, method, response.status)
        elapsed = time.monotonic() - request.started
        series.observe(elapsed)
        if self._access_log is not None:
            self._log(request, response, elapsed)
        block = b"content-type: %b\r\nx-request-id: %b\r\n%b" % (
            response.content_type, (admission.request_id or request.id).encode(), admission.extra,
        )  # fmt: skip
        if admission.bucket is not None:
            block += admission.bucket.lines()
        for header in response.headers:
            block += b"%b: %b\r\n" % header
        request.respond(response, block)

    def _over(self, bucket: TokenBucket) -> RateLimitError:
        self._limited.add()
        return RateLimitError(
            f"More than {bucket.policy.quota} requests in {bucket.policy.window} s.",
            remedy=f"Ask again in {bucket.retry_after()} s.",
        )

    def _check_access(self, admission: Admission) -> None:
        scope = admission.route.scope
        if scope is None:
            return
        admission.bucket = self._strangers.of(admission.head.client)
        record = self.keys.admit(admission.head, scope)
        caller = admission.head.client if record is None else record.id
        admission.bucket = self._callers.of(caller)
        if record is not None:
            admission.key_id = record.id
            if record.expires is not None:
                admission.deadline = time.monotonic() + record.expires - time.time()

    def _identify(self, admission: Admission) -> None:
        """Take up the client's request id, or the id of the trace it belongs to."""
        for name, value in admission.head.headers:
            if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
                admission.request_id = value.decode()
            elif name == b"traceparent" and (trace := trace_id(value)):
                admission.request_id = admission.request_id or trace
                admission.extra = b"traceresponse: %b\r\n" % value

    def _refused(self, route: Route, head: RequestHead, error: TidemillError) -> Admission:
        admission = Admission(route, head, refusal=error)
        self._identify(admission)
        return admission

    def _new_series(self, route: Route, method: str, status: int) -> Histogram:
        known = method if method in ("GET", "HEAD", "POST", "OPTIONS") else "OTHER"
        series = self._metrics.request(known, route.path, status)
        if known == method:
            self._series[route, method, status] = series
        return series

    def _log(self, request: Request, response: Response, elapsed: float) -> None:
        assert self._access_log is not None
        head = request.head
        self._access_log.info(
            "%s %s %d", head.method, head.path, response.status,
            extra={
                "client": head.client,
                "ms": round(elapsed * 1000, 3),
                "request_id": request.admission.request_id or request.id,
                "key_id": request.admission.key_id,
            },
        )  # fmt: skip


def _check_media(head: RequestHead, route: Route) -> None:
    """Refuse a body that nobody here would read.

    Raises:
        MediaTypeError: Another content type than the route's, or a compressed body.
    """
    if route.media is None or head.method != "POST":
        return
    for name, value in head.headers:
        if name == b"content-type":
            media = value.partition(b";")[0].strip().lower()
            if media not in route.media:
                expected = b", ".join(sorted(route.media)).decode()
                raise MediaTypeError(
                    f"The body is {media[:80].decode('latin-1')!r}.",
                    field="Content-Type",
                    expected=expected,
                    remedy=f"Say so in a header: Content-Type: {expected.partition(',')[0]}",
                )
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise MediaTypeError(
                f"The body is compressed: {value[:40].decode('latin-1')}.",
                field="Content-Encoding",
                expected="identity",
            )

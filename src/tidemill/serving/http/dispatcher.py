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
from tidemill.serving.http.api_keys import Keys
from tidemill.serving.http.rate_limits import Bucket, Buckets
from tidemill.serving.http.routes import (
    Admission,
    Call,
    Head,
    Match,
    Reply,
    Route,
    Router,
    allowed,
)
from tidemill.serving.journal.prediction_ids import REQUEST_ID, id_source, trace_id
from tidemill.serving.telemetry.metrics import Histogram, Metrics

log = logging.getLogger(__name__)
Respond = Callable[[Reply, bytes], None]


def _unreachable(call: Call) -> Reply:
    raise NotFoundError(f"There is no {call.head.path[:200]} here.")


#: The route of what has no route.
NOWHERE = Route("*", "unmatched", _unreachable)


class Gateway:
    """What stands before the handlers.

    Args:
        callers: The shares of keys (of addresses, when keys are off).
        strangers: The shares of addresses that show no valid key.
        access_log: Whether every request is logged.
    """

    def __init__(
        self, router: Router, keys: Keys, callers: Buckets, strangers: Buckets,
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

    def find(self, head: Head, raw_path: bytes | None = None) -> Match | None:
        """The data plane's routes for the path; None when the path is not its own."""
        return self.router.find(head.path, raw_path)

    def admit(self, head: Head, match: Match | None) -> Admission:
        """What the head decides. Never raises: a refusal is part of the admission."""
        if match is None:
            missing = NotFoundError(f"There is no {head.path[:200]} here.")
            return self._refused(NOWHERE, head, missing)
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

    def answer(self, admission: Admission, body: bytes, respond: Respond) -> Call:
        """Have the request answered: `respond` is called once, now or later on this thread."""
        now = time.monotonic()
        call = Call(admission, body, self.next_id(), now, respond)
        bucket = admission.bucket
        try:
            if bucket is not None and not bucket.take(now):
                raise self._over(bucket)
            if admission.refusal is not None:
                raise admission.refusal
            if now > admission.deadline:
                raise AccessError("The API key has expired.", remedy="Ask for a new one.")
            reply = admission.route.handler(call)
        except Exception as error:
            reply = self.failed(call, error)
        if reply is not None:
            self.settle(call, reply)
        return call

    def failed(self, call: Call, error: Exception) -> Reply | None:
        """What to tell of an error. Where a canary met it, the champion is asked instead; None when
        it will answer."""
        canary, call.canary = call.canary, None
        if canary is not None:
            call.settled = True
            try:
                reply = call.admission.route.handler(call)
            except Exception as again:  # the champion does not take it, either
                return self.failed(call, again)
            canary.fell_back()
            return reply
        if isinstance(error, TidemillError):
            return self.refuse(call, error)
        log.error("%s failed", call.admission.route.path, exc_info=error)
        return self.refuse(call, TidemillError("The server failed on this request."))

    def refuse(self, call: Call, error: TidemillError) -> Reply:
        """The error in the shape of the call's route, with the headers that belong to it."""
        reply = call.admission.route.problem(error)
        if isinstance(error, RateLimitError) and call.admission.bucket is not None:
            wait = b"%d" % call.admission.bucket.retry_after()
            reply.headers = (*reply.headers, (b"retry-after", wait))
        elif isinstance(error, UnavailableError):
            reply.headers = (*reply.headers, (b"retry-after", b"1"))
        elif isinstance(error, MethodError) and error.expected:
            reply.headers = (*reply.headers, (b"allow", error.expected.encode()))
        return reply

    def settle(self, call: Call, reply: Reply) -> None:
        """Count the reply and send it."""
        admission = call.admission
        method = admission.head.method
        series = self._series.get((admission.route, method, reply.status))
        if series is None:
            series = self._new_series(admission.route, method, reply.status)
        elapsed = time.monotonic() - call.started
        series.observe(elapsed)
        if self._access_log is not None:
            self._log(call, reply, elapsed)
        block = b"content-type: %b\r\nx-request-id: %b\r\n%b" % (
            reply.content_type, (admission.request_id or call.id).encode(), admission.extra,
        )  # fmt: skip
        if admission.bucket is not None:
            block += admission.bucket.lines()
        for header in reply.headers:
            block += b"%b: %b\r\n" % header
        call.respond(reply, block)

    def _over(self, bucket: Bucket) -> RateLimitError:
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

    def _refused(self, route: Route, head: Head, error: TidemillError) -> Admission:
        admission = Admission(route, head, refusal=error)
        self._identify(admission)
        return admission

    def _new_series(self, route: Route, method: str, status: int) -> Histogram:
        known = method if method in ("GET", "HEAD", "POST", "OPTIONS") else "OTHER"
        series = self._metrics.request(known, route.path, status)
        if known == method:
            self._series[route, method, status] = series
        return series

    def _log(self, call: Call, reply: Reply, elapsed: float) -> None:
        assert self._access_log is not None
        head = call.head
        self._access_log.info(
            "%s %s %d", head.method, head.path, reply.status,
            extra={
                "client": head.client,
                "ms": round(elapsed * 1000, 3),
                "request_id": call.admission.request_id or call.id,
                "key_id": call.admission.key_id,
            },
        )  # fmt: skip


def _check_media(head: Head, route: Route) -> None:
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

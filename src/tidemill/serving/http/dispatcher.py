"""Finds the route of a request, admits the caller, and calls the route's handler."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from tidemill.addresses import client_network
from tidemill.errors import (
    AccessError,
    MediaTypeError,
    MethodError,
    NotFoundError,
    RateLimitError,
    TidemillError,
)
from tidemill.serving.http.api_keys import ApiKeys
from tidemill.serving.http.rate_limits import RateLimiter, TokenBucket
from tidemill.serving.http.responder import Responder
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
from tidemill.serving.telemetry.metrics import Metrics

Respond = Callable[[Response, bytes], None]


def _unreachable(request: Request) -> Response:
    raise NotFoundError(f"There is no {request.head.path[:200]} here.")


#: The route of requests that have none.
UNMATCHED = Route("*", "unmatched", _unreachable)


class Dispatcher:
    """Admits requests and hands them to their route's handler.

    Args:
        callers: The rate limits of API keys, or of addresses when keys are off.
        anonymous: The rate limits of addresses that send no valid key.
    """

    def __init__(
        self, router: Router, keys: ApiKeys, callers: RateLimiter, anonymous: RateLimiter,
        responder: Responder, metrics: Metrics,
    ) -> None:  # fmt: skip
        self.router = router
        self.keys = keys
        self.next_id = id_source()
        self._callers = callers
        self._anonymous = anonymous
        self._responder = responder
        self._limited = metrics.counter("tidemill_rate_limited_total")

    def find(self, head: RequestHead, raw_path: bytes | None = None) -> RouteMatch | None:
        """The data plane's routes for the path; None for a path it does not have."""
        return self.router.find(head.path, raw_path)

    def admit(self, head: RequestHead, match: RouteMatch | None) -> Admission:
        """Decide what the head alone decides. Never raises: the admission holds the refusal.

        Dispatch may come later, when the body has arrived, and several requests with equal heads
        may share the admission; `dispatch` therefore checks that the keyring is still the same.
        """
        if match is None:
            missing = NotFoundError(f"There is no {head.path[:200]} here.")
            return self._refused(UNMATCHED, head, missing)
        method = "GET" if head.method == "HEAD" else head.method
        route = match.methods.get(method)
        if route is None:
            what = f"{head.path[:200]} does not accept {head.method[:20]}."
            error = MethodError(what, expected=allowed(match.methods))
            return self._refused(next(iter(match.methods.values())), head, error)
        return self._admitted(route, head, match.params)

    def _admitted(self, route: Route, head: RequestHead, params: dict[str, str]) -> Admission:
        admission = Admission(route, head, params, generation=self.keys.generation)
        self._identify(admission)
        try:
            self._check_access(admission)
            _check_media(head, route)
        except TidemillError as error:
            admission.refusal = error
        return admission

    def dispatch(self, admission: Admission, body: bytes, respond: Respond) -> Request:
        """Have the request answered: `respond` is called once, now or later, on this thread."""
        now = time.monotonic()
        if admission.generation is not self.keys.generation and admission.refusal is None:
            admission = self._admitted(admission.route, admission.head, admission.params)
        request = Request(admission, body, self.next_id(), now, respond)
        bucket = admission.bucket
        try:
            if bucket is not None and not bucket.take(now):
                raise self._over_limit(bucket)
            if admission.refusal is not None:
                raise admission.refusal
            if admission.expires != math.inf and time.time() >= admission.expires:
                raise AccessError("The API key has expired.", remedy="Ask for a new one.")
            response = admission.route.handler(request)
        except Exception as error:
            response = self._responder.handle_error(request, error)
        if response is not None:
            self._responder.send(request, response)
        return request

    def _over_limit(self, bucket: TokenBucket) -> RateLimitError:
        self._limited.add()
        return RateLimitError(
            f"More than {bucket.limit.quota} requests in {bucket.limit.window} s.",
            remedy=f"Retry in {bucket.retry_after()} s.",
        )

    def _check_access(self, admission: Admission) -> None:
        scope = admission.route.scope
        if scope is None:
            return
        network = client_network(admission.head.client)
        admission.bucket = self._anonymous.of(network)
        record = self.keys.admit(admission.head, scope)
        admission.bucket = self._callers.of(network if record is None else record.id)
        if record is not None:
            admission.key_id = record.id
            if record.expires is not None:
                admission.expires = record.expires

    def _identify(self, admission: Admission) -> None:
        """Use the client's request id, or the id of the trace that the request belongs to."""
        for name, value in admission.head.headers:
            if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
                admission.request_id = value.decode()
            elif name == b"traceparent" and (trace := trace_id(value)):
                admission.request_id = admission.request_id or trace
                admission.extra = b"traceresponse: %b\r\n" % value

    def _refused(self, route: Route, head: RequestHead, error: TidemillError) -> Admission:
        admission = Admission(route, head, refusal=error, generation=self.keys.generation)
        self._identify(admission)
        return admission


def _check_media(head: RequestHead, route: Route) -> None:
    """Refuse a body that no reader here takes.

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
                    f"The body's content type is {media[:80].decode('latin-1')!r}.",
                    field="Content-Type",
                    expected=expected,
                    remedy=f"Send the header Content-Type: {expected.partition(',')[0]}",
                )
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise MediaTypeError(
                f"The body is compressed: {value[:40].decode('latin-1')}.",
                field="Content-Encoding",
                expected="identity",
            )

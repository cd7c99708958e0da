"""Routes, how a path finds one, and the values of a request from its head to its response."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote

import msgspec

from tidemill.errors import TidemillError
from tidemill.keyring import Scope
from tidemill.serving.http.rate_limits import TokenBucket

JSON = b"application/json"
PROBLEM = b"application/problem+json"
JSON_MEDIA = frozenset({JSON, b"text/json"})


class RequestHead(msgspec.Struct, frozen=True):
    """A request without its body. Header names are in lower case; `path` is percent-decoded."""

    method: str
    path: str
    query: bytes = b""
    headers: list[tuple[bytes, bytes]] = []
    client: str = ""

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Response(msgspec.Struct):
    """A complete response. The responder adds the headers for the request id and the rate limit."""

    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


def json_response(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status)


def problem_response(error: TidemillError) -> Response:
    """The error in the format of RFC 9457, as on the native routes."""
    return Response(msgspec.json.encode(error.problem()), error.status, PROBLEM)


class Admission(msgspec.Struct):
    """What the head of a request decides: the route, the caller and their rate limit. Requests with
    equal heads share one.

    Attributes:
        generation: The keyring that the key was checked against. A newer one makes the admission
            out of date: see `Dispatcher.dispatch`.
        expires: When the key expires, in seconds since the epoch.
        refusal: The error, if the request is refused whatever its body is.
        extra: Header lines of every response to this head.
    """

    route: Route
    head: RequestHead
    params: dict[str, str] = {}
    key_id: str | None = None
    bucket: TokenBucket | None = None
    request_id: str | None = None
    expires: float = float("inf")
    refusal: TidemillError | None = None
    extra: bytes = b""
    generation: object = None


class Canary(Protocol):
    """A challenger that handles requests in place of the champion."""

    def fell_back(self) -> None:
        """Count a request that the champion answered because the challenger failed."""
        ...


class Request(msgspec.Struct):
    """One request until it is answered.

    Attributes:
        id: The prediction's id.
        started: When it arrived, on the monotonic clock.
        respond: Called exactly once as `respond(response, block)` on the event loop's thread, when
            the response may be sent; `block` holds the header lines without status line, content
            length and default headers.
        canary: The challenger that answers in place of the champion.
        shadow: The request is a copy for a challenger, whose answer is only recorded.
        champion_only: The canary has failed on it; the champion must answer.
    """

    admission: Admission
    body: bytes
    id: str
    started: float
    respond: Callable[[Response, bytes], None]
    canary: Canary | None = None
    shadow: bool = False
    champion_only: bool = False

    @property
    def head(self) -> RequestHead:
        return self.admission.head

    @property
    def params(self) -> dict[str, str]:
        return self.admission.params


Handler = Callable[[Request], Response | None]


class Route(msgspec.Struct, frozen=True, eq=False):
    """One path and verb.

    Attributes:
        path: The template, such as `/models/{name}/predict`; a parameter never spans a slash.
        handler: Returns the response, or None if it passed rows to a predictor, which will answer.
        scope: The scope that a key needs; None for a public route.
        problem: Builds the response for an error.
        media: Accepted content types in lower case without parameters; a body without a content
            type is accepted, too. None accepts any.
        fast: Whether the fast protocol may answer: for POSTs in which only the body varies.
    """

    method: str
    path: str
    handler: Handler
    scope: Scope | None = None
    problem: Callable[[TidemillError], Response] = problem_response
    media: frozenset[bytes] | None = None
    fast: bool = False


class ServingProtocol(NamedTuple):
    """One serving protocol: its routes and their OpenAPI description.

    `paths()` returns the OpenAPI path items by path, `schemas()` the component schemas that they
    refer to; both depend on the models in service.
    """

    name: str
    routes: list[Route]
    paths: Callable[[], dict[str, Any]]
    schemas: Callable[[], dict[str, Any]] = dict


class RouteMatch(NamedTuple):
    methods: Mapping[str, Route]
    params: dict[str, str]


class Router:
    """Finds the routes of a path; a path without parameters takes one look-up."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[str, dict[str, Route]] = {}
        self._templates: dict[int, list[tuple[list[str], dict[str, Route]]]] = {}
        for route in routes:
            methods = self._methods_of(route.path)
            methods[route.method] = route
            methods["OPTIONS"] = _options(route.path, methods)

    def find(self, path: str, raw_path: bytes | None = None) -> RouteMatch | None:
        """The routes of a path by method, and its parameters; None for an unknown path.

        `raw_path`, if given, is split instead of `path`, so that a parameter may contain an encoded
        slash.
        """
        fixed = self._fixed.get(path)
        if fixed is not None:
            return RouteMatch(fixed, {})
        parts = raw_path.decode("latin-1").split("/") if raw_path else path.split("/")
        for template, methods in self._templates.get(len(parts), ()):
            params = _bind(template, parts)
            if params is not None:
                return RouteMatch(methods, params)
        return None

    def _methods_of(self, path: str) -> dict[str, Route]:
        if "{" not in path:
            return self._fixed.setdefault(path, {})
        template = path.split("/")
        group = self._templates.setdefault(len(template), [])
        for known, methods in group:
            if known == template:
                return methods
        group.append((template, {}))
        return group[-1][1]


def allowed(methods: Mapping[str, Route]) -> str:
    """The methods of a path, as in the Allow header."""
    return ", ".join(sorted({*methods, *(["HEAD"] if "GET" in methods else [])}))


def _options(path: str, methods: Mapping[str, Route]) -> Route:
    def respond(request: Request) -> Response:
        return Response(b"", 204, headers=((b"allow", allowed(methods).encode()),))

    return Route("OPTIONS", path, respond)


def _bind(template: list[str], parts: list[str]) -> dict[str, str] | None:
    params = {}
    for part, found in zip(template, parts, strict=True):
        if part.startswith("{"):
            if not found:
                return None
            params[part[1:-1]] = unquote(found)
        elif part != found:
            return None
    return params

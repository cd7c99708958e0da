"""Routes, how a path finds one, and what passes through: Head, Admission, Call, Reply."""

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
    """A whole answer. The gateway adds the request id and the rate limit's headers to it."""

    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


def json_response(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status)


def problem_response(error: TidemillError) -> Response:
    """The error as RFC 9457 says; the shape of the native routes."""
    return Response(msgspec.json.encode(error.problem()), error.status, PROBLEM)


class Admission(msgspec.Struct):
    """What a head alone decides: the route, the caller, their share. The same head, the same one.

    `refusal` is set when the request is turned away whatever its body says.
    """

    route: Route
    head: RequestHead
    params: dict[str, str] = {}
    key_id: str | None = None
    bucket: TokenBucket | None = None
    request_id: str | None = None
    deadline: float = float("inf")  # on the monotonic clock: when the key expires
    refusal: TidemillError | None = None
    extra: bytes = b""  # header lines that every answer to this head carries


class Canary(Protocol):
    """What the gateway knows of a challenger that answered for a champion, or failed to."""

    def fell_back(self) -> None:
        """Count a request that the champion answered after all."""
        ...


class Request(msgspec.Struct):
    """One request on its way to its answer.

    `respond(reply, block)` is called exactly once, on the loop's thread, when the answer may leave;
    `block` holds the header lines without status line, content length and default headers.
    `canary` is the challenger that answers in the champion's place, `shadow` says that one answers
    for the journal alone.
    """

    admission: Admission
    body: bytes
    id: str
    started: float
    respond: Callable[[Response, bytes], None]
    canary: Canary | None = None
    shadow: bool = False
    champion_only: bool = False  # the canary failed; the champion answers, come what may

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
        path: The template: `/models/{name}/predict`; a parameter never spans a slash.
        handler: Gives the reply, or None when it handed rows to a predictor, which will answer.
        scope: What a key must carry; None for a public route.
        problem: The shape of errors here.
        media: Content types that bodies may have, in lower case without parameters; a body without
            a type is taken, too. None takes any.
        fast: Whether the fast lane may answer; for POSTs whose body is all that varies.
    """

    method: str
    path: str
    handler: Handler
    scope: Scope | None = None
    problem: Callable[[TidemillError], Response] = problem_response
    media: frozenset[bytes] | None = None
    fast: bool = False


class ServingProtocol(NamedTuple):
    """One way to talk to the models: its routes, and what OpenAPI says of them.

    `paths()` gives OpenAPI path items by path, `schemas()` what they refer to in the components;
    both are asked anew whenever a model changes.
    """

    name: str
    routes: list[Route]
    paths: Callable[[], dict[str, Any]]
    schemas: Callable[[], dict[str, Any]] = dict


class RouteMatch(NamedTuple):
    methods: Mapping[str, Route]
    params: dict[str, str]


class Router:
    """All routes; a path without parameters is found by one look-up."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[str, dict[str, Route]] = {}
        self._templates: dict[int, list[tuple[list[str], dict[str, Route]]]] = {}
        for route in routes:
            methods = self._methods_of(route.path)
            methods[route.method] = route
            methods["OPTIONS"] = _options(route.path, methods)

    def find(self, path: str, raw_path: bytes | None = None) -> RouteMatch | None:
        """The routes of a path by method, and the parameters in it; None for an unknown path.

        `raw_path`, where given, keeps an encoded slash inside a parameter from splitting it.
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
    """The verbs of a path, as the Allow header lists them."""
    return ", ".join(sorted({*methods, *(["HEAD"] if "GET" in methods else [])}))


def _options(path: str, methods: Mapping[str, Route]) -> Route:
    def answer(request: Request) -> Response:
        return Response(b"", 204, headers=((b"allow", allowed(methods).encode()),))

    return Route("OPTIONS", path, answer)


def _bind(template: list[str], parts: list[str]) -> dict[str, str] | None:
    params = {}
    for wanted, found in zip(template, parts, strict=True):
        if wanted.startswith("{"):
            if not found:
                return None
            params[wanted[1:-1]] = unquote(found)
        elif wanted != found:
            return None
    return params

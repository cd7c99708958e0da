"""One request: what a page is given, what it may answer with, and how that becomes HTTP."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from tidemill.console import live, render
from tidemill.console.context import ConsoleContext
from tidemill.console.session import COOKIE, Session
from tidemill.errors import (
    AccessError,
    MalformedError,
    RateLimitError,
    TidemillError,
    UnavailableError,
)
from tidemill.keyring import Scope
from tidemill.stores.jobs.retryability import classify

ROOT = "/console"
SAID = "tidemill_said"
THEME = "tidemill_theme"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept, Cookie",
}


@dataclass(frozen=True)
class SignedInUser:
    """Who looks; the same to logs and limits as a caller of the API."""

    address: str
    session: Session

    @property
    def key_id(self) -> str:
        return self.session.key.id

    @property
    def actor(self) -> str:
        """How the audit log names the user, as it names the key's callers of the API."""
        return f"key:{self.key_id}"

    def allows(self, scope: Scope) -> bool:
        return self.session.allows(scope)

    def require(self, scope: Scope) -> None:
        """Refuse a user without the scope.

        Raises:
            AccessError: Says which scope is missing.
        """
        if not self.allows(scope):
            raise AccessError(
                f"Your key {self.key_id} lacks the scope '{scope}': you may look, not change this.",
                remedy=f"Sign in with a key made by `tidemill keys create --scope {scope}`.",
            )


@dataclass(frozen=True)
class PageRequest:
    """What a page is given. `serving` is where the data plane answers."""

    context: ConsoleContext
    user: SignedInUser
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    serving_url: str = ""
    request_id: str | None = None


@dataclass(frozen=True)
class View:
    """A page: a template and what it shows."""

    template: str
    values: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200


@dataclass(frozen=True)
class Go:
    """Look at another page, which says what was done."""

    to: str
    said: str = ""


@dataclass(frozen=True)
class Data:
    """A value for a script of ours."""

    value: Any
    status: int = 200


@dataclass(frozen=True)
class Download:
    """A file, made piece by piece."""

    name: str
    media: str
    pieces: Iterator[bytes]


Answer = View | Go | Data | Download
Make = Callable[[PageRequest], Answer]
Endpoint = Callable[[Request], Awaitable[Response]]


def page(context: ConsoleContext, make: Make, scope: Scope | None = None) -> Endpoint:
    """The endpoint of a page; asked for as an event stream, it tells of every change."""

    async def endpoint(request: Request) -> Response:
        user = signed_in_user(context, request)
        if user is None:
            return _to_sign_in(request)
        if scope is not None:
            user.require(scope)
        visit = _page_request(context, user, request)
        if "text/event-stream" in request.headers.get("accept", ""):
            return live.stream_page(
                partial(_shown, visit, make), partial(signed_in_user, context, request), request
            )
        return _respond(context, request, user, await run_in_threadpool(make, visit))

    return endpoint


def action(context: ConsoleContext, make: Make, scope: Scope | None = None) -> Endpoint:
    """The endpoint of a form or a script: signed in, from our own page, within its share."""

    async def endpoint(request: Request) -> Response:
        user = signed_in_user(context, request)
        if user is None:
            return _to_sign_in(request)
        body = await request.body()
        form = form_of(request, body)
        _check_origin(context, request, user, form)
        share = context.limits.take(user.key_id)
        if share is not None and not share.allowed:
            raise RateLimitError("Too much at once.", remedy=f"Wait {max(1, share.reset)} s.")
        if scope is not None:
            user.require(scope)
        visit = _page_request(context, user, request, form, body)
        return _respond(context, request, user, await run_in_threadpool(make, visit))

    return endpoint


def signed_in_user(context: ConsoleContext, request: Request) -> SignedInUser | None:
    """Who is signed in, if anybody is."""
    session = context.sessions.read(request.cookies.get(cookie_name(request), ""))
    if session is None:
        return None
    user = SignedInUser(address_of(request), session)
    request.state.caller = user  # for the request log
    return user


def cookie_name(request: Request) -> str:
    """Of its own for each port: browsers share cookies between the ports of a host."""
    return COOKIE if request.url.port is None else f"{COOKIE}_{request.url.port}"


def address_of(request: Request) -> str:
    return request.client.host if request.client else "local"


def set_cookie(response: Response, request: Request, name: str, value: str, **more: Any) -> None:
    """A cookie for the console alone, which no script reads and no other site sends along."""
    response.set_cookie(
        name, value, path=ROOT, httponly=True, samesite="lax",
        secure=request.url.scheme == "https", **more,
    )  # fmt: skip


def form_of(request: Request, body: bytes) -> dict[str, str]:
    """The fields of a form; of several with one name the last, and empty ones too.

    Raises:
        MalformedError: It is no UTF-8.
    """
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return {}
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=20_000))
    except ValueError as error:
        raise MalformedError(f"The form cannot be read: {error}", field="body") from error


def problem_answer(request: Request, error: Exception, context: ConsoleContext) -> Response:
    """An error as a page for people, or as problem+json for our scripts."""
    problem = _as_problem(error)
    if request.headers.get("x-csrf-token") is not None:
        return Response(
            msgspec.json.encode(problem.problem()), problem.status, HEADERS,
            media_type="application/problem+json",
        )  # fmt: skip
    user = signed_in_user(context, request)
    if user is None:
        view = View("sign_in.html", {"problem": problem, "next": ""}, problem.status)
        return plain(request, view)
    return _respond(
        context, request, user, View("problem.html", {"problem": problem}, problem.status)
    )


def plain(request: Request, view: View) -> Response:
    """A page for somebody who is not signed in."""
    values = {"theme": request.cookies.get(THEME), "path": request.url.path, **view.values}
    return Response(render.page(view.template, values), view.status, HEADERS, "text/html")


def _as_problem(error: Exception) -> TidemillError:
    if isinstance(error, TidemillError):
        return error
    if classify(error).retryable:
        return UnavailableError(f"A part that is needed is down: {error}")
    return TidemillError("Something went wrong here; the log says what.")


def _page_request(
    context: ConsoleContext,
    user: SignedInUser,
    request: Request,
    form: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> PageRequest:
    return PageRequest(
        context=context,
        user=user,
        path=request.path_params,
        query={name: value for name, value in request.query_params.items() if value},
        form=form or {},
        body=body,
        serving_url=context.platform.settings.serving_url or _own_address(request),
        request_id=getattr(request.state, "request_id", None),
    )


def _own_address(request: Request) -> str:
    """Where this very server listens: by the socket, never by what the request says of it."""
    host, port = request.scope.get("server") or ("127.0.0.1", 8000)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _check_origin(
    context: ConsoleContext, request: Request, user: SignedInUser, form: Mapping[str, str]
) -> None:
    given = request.headers.get("x-csrf-token") or form.get("csrf", "")
    same = given == context.sessions.csrf(user.session)
    if not same or request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise AccessError(
            "This did not come from a page of yours, or the page is from an earlier sign-in.",
            remedy="Load the page again and repeat what you did.",
        )


def _to_sign_in(request: Request) -> Response:
    where = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if request.method != "GET" or "text/event-stream" in request.headers.get("accept", ""):
        return Response("Sign in first.", 401, HEADERS, "text/plain")
    return RedirectResponse(f"{ROOT}/sign-in?{urlencode({'next': where})}", 303, HEADERS)


def _values(context: ConsoleContext, user: SignedInUser, path: str) -> dict[str, Any]:
    return {
        "user": user,
        "csrf": context.sessions.csrf(user.session),
        "path": path,
        "may": {scope: user.allows(scope) for scope in ("predict", "train", "promote", "admin")},
    }


def _shown(visit: PageRequest, make: Make) -> str:
    """The page without its frame, as it is now."""
    answer = make(visit)
    assert isinstance(answer, View), "only a page can be followed"
    shared = _values(visit.context, visit.user, "")
    return render.page(answer.template, {**shared, **answer.values, "layout": "bare.html"})


def _respond(
    context: ConsoleContext, request: Request, user: SignedInUser, answer: Answer
) -> Response:
    response: Response
    if isinstance(answer, Go):
        response = RedirectResponse(answer.to, 303, HEADERS)
        if answer.said:
            set_cookie(response, request, SAID, quote(answer.said[:1000]), max_age=60)
    elif isinstance(answer, Data):
        body = msgspec.json.encode(answer.value)
        response = Response(body, answer.status, HEADERS, "application/json")
    elif isinstance(answer, Download):
        name = f'attachment; filename="{answer.name}"'
        headers = {**HEADERS, "Content-Disposition": name}
        response = StreamingResponse(answer.pieces, headers=headers, media_type=answer.media)
    else:
        response = _page(context, request, user, answer)
    touched = context.sessions.touched(user.session)
    if touched is not None:
        set_cookie(response, request, cookie_name(request), context.sessions.cookie(touched))
    return response


def _page(context: ConsoleContext, request: Request, user: SignedInUser, view: View) -> Response:
    said = unquote(request.cookies.get(SAID, ""))
    values = {
        **_values(context, user, request.url.path),
        "said": said,
        "theme": request.cookies.get(THEME),
        "made": time.time(),
        "still": request.method != "GET" or view.status != 200,
        **view.values,
    }
    response = Response(render.page(view.template, values), view.status, HEADERS, "text/html")
    if said:
        response.delete_cookie(SAID, path=ROOT)
    return response

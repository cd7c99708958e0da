"""The responses of pages and actions: HTML from a template, redirects, downloads, errors."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from tidemill.console import render
from tidemill.console.page_request import (
    PageRequest,
    context_of,
    cookie_name,
    signed_in_user,
)
from tidemill.errors import TidemillError, UnavailableError
from tidemill.keyring import SCOPES
from tidemill.stores.jobs.retryability import classify

ROOT = "/console"
MESSAGE_COOKIE = "tidemill_said"
THEME_COOKIE = "tidemill_theme"
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


def show_page(
    request: PageRequest, template: str, values: Mapping[str, Any], status: int = 200
) -> HTMLResponse:
    """A page from a template; only its content, without the frame, for a live stream."""
    user = request.user
    shared = {
        "user": user,
        "csrf": request.context.sessions.csrf(user.session),
        "path": request.url.path,
        "may": {scope: user.allows(scope) for scope in SCOPES},
    }
    if request.is_live:
        content = render.page(template, {**shared, **values, "layout": "bare.html"})
        return HTMLResponse(content, status, HEADERS)
    message = unquote(request.cookies.get(MESSAGE_COOKIE, ""))
    frame = {
        "message": message,
        "theme": request.cookies.get(THEME_COOKIE),
        "made": time.time(),
        "still": request.method != "GET" or status != 200,
    }
    response = HTMLResponse(render.page(template, {**shared, **frame, **values}), status, HEADERS)
    if message:
        response.delete_cookie(MESSAGE_COOKIE, path=ROOT)
    return response


def show_public_page(
    request: Request, template: str, values: Mapping[str, Any], status: int = 200
) -> HTMLResponse:
    """A page for a browser that is not signed in."""
    shared = {"theme": request.cookies.get(THEME_COOKIE), "path": request.url.path}
    return HTMLResponse(render.page(template, {**shared, **values}), status, HEADERS)


def redirect(request: Request, path: str, message: str = "") -> RedirectResponse:
    """Show another page, with a message about what was done."""
    response = RedirectResponse(path, 303, HEADERS)
    if message:
        set_cookie(response, request, MESSAGE_COOKIE, quote(message[:1000]), max_age=60)
    return response


def download(name: str, media_type: str, chunks: Iterator[bytes]) -> StreamingResponse:
    """A file that is generated while it is sent."""
    headers = {**HEADERS, "Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(chunks, headers=headers, media_type=media_type)


def show_problem(request: Request, error: Exception) -> Response:
    """An error as a page, or as problem+json for the console's own scripts."""
    problem = _as_problem(error)
    if request.headers.get("x-csrf-token") is not None:
        body = msgspec.json.encode(problem.problem())
        return Response(body, problem.status, HEADERS, media_type="application/problem+json")
    user = signed_in_user(request)
    if user is None:
        values = {"problem": problem, "next": ""}
        return show_public_page(request, "sign_in.html", values, problem.status)
    request.scope["user"] = user
    page_request = PageRequest(request.scope)
    response = show_page(page_request, "problem.html", {"problem": problem}, problem.status)
    return renew_session(page_request, response)


def renew_session(request: PageRequest, response: Response) -> Response:
    """Set a new session cookie if the old one is due for renewal."""
    sessions = context_of(request).sessions
    renewed = sessions.touched(request.user.session)
    if renewed is not None:
        set_cookie(response, request, cookie_name(request), sessions.cookie(renewed))
    return response


def set_cookie(response: Response, request: Request, name: str, value: str, **more: Any) -> None:
    """Set a cookie for the console alone; scripts cannot read it, other sites do not send it."""
    response.set_cookie(
        name, value, path=ROOT, httponly=True, samesite="lax",
        secure=request.url.scheme == "https", **more,
    )  # fmt: skip


def _as_problem(error: Exception) -> TidemillError:
    if isinstance(error, TidemillError):
        return error
    if classify(error).retryable:
        return UnavailableError(f"A required service is down: {error}")
    return TidemillError("Internal error; see the server's log.")

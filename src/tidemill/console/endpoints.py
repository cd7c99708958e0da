"""Turn page functions into Starlette endpoints: session, scope, CSRF token, rate limit, errors.

A page function takes a `PageRequest` and returns a response. It runs in a thread, so it may block.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tidemill.console import live
from tidemill.console.page_request import PageRequest, signed_in_user
from tidemill.console.responses import HEADERS, ROOT, renew_session, show_problem
from tidemill.errors import (
    AccessError,
    MethodError,
    NotFoundError,
    RateLimitError,
    TidemillError,
)
from tidemill.keyring import Scope

log = logging.getLogger(__name__)

PageFunction = Callable[[PageRequest], Response]
Endpoint = Callable[[Request], Awaitable[Response]]


def page(function: PageFunction, scope: Scope | None = None) -> Endpoint:
    """The endpoint of a page; a browser that accepts event streams gets every change of it."""

    async def endpoint(request: Request) -> Response:
        page_request = _authenticate(request)
        if page_request is None:
            return _to_sign_in(request)
        if scope is not None:
            page_request.user.require(scope)
        if page_request.is_live:
            return live.stream_page(
                lambda: bytes(function(page_request).body).decode(),
                lambda: signed_in_user(request) is not None,
                request,
            )
        return renew_session(page_request, await run_in_threadpool(function, page_request))

    return endpoint


def action(function: PageFunction, scope: Scope | None = None) -> Endpoint:
    """The endpoint of a form or a script, which must come from a page of the same session."""

    async def endpoint(request: Request) -> Response:
        page_request = _authenticate(request)
        if page_request is None:
            return _to_sign_in(request)
        await page_request.read_body()
        _check_origin(page_request)
        share = page_request.context.limits.take(page_request.user.key_id)
        if share is not None and not share.allowed:
            raise RateLimitError("Too many requests.", remedy=f"Retry in {max(1, share.reset)} s.")
        if scope is not None:
            page_request.user.require(scope)
        return renew_session(page_request, await run_in_threadpool(function, page_request))

    return endpoint


def _authenticate(request: Request) -> PageRequest | None:
    user = signed_in_user(request)
    if user is None:
        return None
    request.scope["user"] = user
    return PageRequest(request.scope, request.receive)


def _check_origin(request: PageRequest) -> None:
    token = request.headers.get("x-csrf-token") or request.form_fields.get("csrf", "")
    expected = request.context.sessions.csrf(request.user.session)
    same = hmac.compare_digest(token.encode(), expected.encode())
    if not same or request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise AccessError(
            "The request did not come from a page of this session.",
            remedy="Reload the page and try again.",
        )


def _to_sign_in(request: Request) -> Response:
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if request.method != "GET" or "text/event-stream" in request.headers.get("accept", ""):
        return Response("Sign in first.", 401, HEADERS, "text/plain")
    return RedirectResponse(f"{ROOT}/sign-in?{urlencode({'next': target})}", 303, HEADERS)


def merge_methods(routes: Sequence[Route]) -> list[Route]:
    """One route per path, so that a wrong method is a 405 and not a 404."""
    by_path: dict[str, list[Route]] = {}
    for route in routes:
        by_path.setdefault(route.path, []).append(route)
    return [_merge(path, found) for path, found in by_path.items()]


def _merge(path: str, routes: list[Route]) -> Route:
    endpoints = {method: route.endpoint for route in routes for method in route.methods or ()}

    async def endpoint(request: Request) -> Response:
        request.scope["route"] = named
        response: Response = await endpoints[request.method](request)
        return response

    named = Route(f"{ROOT}{path}", endpoint)  # the name in the request log and in metrics
    return Route(path, endpoint, methods=list(endpoints))


async def handle_error(request: Request, error: Exception) -> Response:
    """Answer any error; unexpected ones are logged."""
    if isinstance(error, HTTPException):
        error = (
            MethodError(f"{request.method} is not allowed here.")
            if error.status_code == 405
            else NotFoundError(f"There is no page {request.url.path}.")
        )
    elif not isinstance(error, TidemillError):
        log.error("%s failed", request.url.path, exc_info=error)
    return show_problem(request, error)


ERROR_HANDLERS: dict[Any, Any] = {
    TidemillError: handle_error,
    HTTPException: handle_error,
    Exception: handle_error,
}

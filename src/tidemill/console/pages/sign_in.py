"""Signing in and out, and how the pages look."""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tidemill.console.context import ConsoleContext
from tidemill.console.page_request import (
    HEADERS,
    ROOT,
    Answer,
    Endpoint,
    Go,
    PageRequest,
    View,
    address_of,
    cookie_name,
    form_of,
    plain,
    set_cookie,
    signed_in_user,
)
from tidemill.errors import AccessError, RateLimitError, TidemillError


def sign_in_page(context: ConsoleContext) -> Endpoint:
    """The form that takes a key."""

    async def endpoint(request: Request) -> Response:
        wanted = safe_next_path(request.query_params.get("next", ""))
        if signed_in_user(context, request) is not None:
            return RedirectResponse(wanted, 303, HEADERS)
        # Loading MLflow's client takes seconds: let it begin while the key is typed.
        context.cache.get("models", context.registered, patience=0.0)
        return plain(request, View("sign_in.html", {"problem": None, "next": wanted}))

    return endpoint


def sign_in(context: ConsoleContext) -> Endpoint:
    """Takes a key, and gives a cookie for it."""

    async def endpoint(request: Request) -> Response:
        form = form_of(request, await request.body())
        wanted = safe_next_path(form.get("next", ""))
        try:
            if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                raise AccessError("Sign in from this page itself.")
            share = context.limits.take(f"sign-in:{address_of(request)}")
            if share is not None and not share.allowed:
                raise RateLimitError("Too many tries.", remedy=f"Wait {max(1, share.reset)} s.")
            session = context.sessions.open(form.get("key", "").strip())
        except TidemillError as problem:
            view = View("sign_in.html", {"problem": problem, "next": wanted}, problem.status)
            return plain(request, view)
        response = RedirectResponse(wanted, 303, HEADERS)
        set_cookie(response, request, cookie_name(request), context.sessions.cookie(session))
        return response

    return endpoint


def sign_out(request: PageRequest) -> Answer:
    """End the session."""
    request.context.sessions.end(request.user.session)
    return Go(f"{ROOT}/sign-in?{urlencode({'next': ROOT + '/'})}")


def safe_next_path(path: str) -> str:
    """The path, if it is one of the console's own: nobody is sent elsewhere after signing in."""
    fine = path.startswith(f"{ROOT}/") and "\\" not in path and path.isprintable()
    return path if fine and not path.startswith(f"{ROOT}/sign-") else f"{ROOT}/"

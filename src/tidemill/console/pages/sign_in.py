"""Signing in and out, and how the pages look."""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tidemill.console.context import Desk
from tidemill.console.page_request import (
    HEADERS,
    ROOT,
    Answer,
    Endpoint,
    Go,
    View,
    Visit,
    address_of,
    cookie_name,
    form_of,
    plain,
    set_cookie,
    visitor_of,
)
from tidemill.errors import AccessError, RateLimitError, TidemillError


def sign_in_page(desk: Desk) -> Endpoint:
    """The form that takes a key."""

    async def endpoint(request: Request) -> Response:
        wanted = local(request.query_params.get("next", ""))
        if visitor_of(desk, request) is not None:
            return RedirectResponse(wanted, 303, HEADERS)
        # Loading MLflow's client takes seconds: let it begin while the key is typed.
        desk.recent.get("models", desk.registered, patience=0.0)
        return plain(request, View("sign_in.html", {"problem": None, "next": wanted}))

    return endpoint


def sign_in(desk: Desk) -> Endpoint:
    """Takes a key, and gives a cookie for it."""

    async def endpoint(request: Request) -> Response:
        form = form_of(request, await request.body())
        wanted = local(form.get("next", ""))
        try:
            if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                raise AccessError("Sign in from this page itself.")
            share = desk.limits.take(f"sign-in:{address_of(request)}")
            if share is not None and not share.allowed:
                raise RateLimitError("Too many tries.", remedy=f"Wait {max(1, share.reset)} s.")
            session = desk.sessions.open(form.get("key", "").strip())
        except TidemillError as problem:
            view = View("sign_in.html", {"problem": problem, "next": wanted}, problem.status)
            return plain(request, view)
        response = RedirectResponse(wanted, 303, HEADERS)
        set_cookie(response, request, cookie_name(request), desk.sessions.cookie(session))
        return response

    return endpoint


def sign_out(visit: Visit) -> Answer:
    """End the session."""
    visit.desk.sessions.end(visit.visitor.session)
    return Go(f"{ROOT}/sign-in?{urlencode({'next': ROOT + '/'})}")


def local(path: str) -> str:
    """The path, if it is one of the console's own: nobody is sent elsewhere after signing in."""
    fine = path.startswith(f"{ROOT}/") and "\\" not in path and path.isprintable()
    return path if fine and not path.startswith(f"{ROOT}/sign-") else f"{ROOT}/"

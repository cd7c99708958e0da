"""Sign in with an API key, and sign out."""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tidemill.console.page_request import (
    PageRequest,
    client_address,
    context_of,
    cookie_name,
    parse_form,
    signed_in_user,
)
from tidemill.console.responses import HEADERS, ROOT, redirect, set_cookie, show_public_page
from tidemill.console.session import Session
from tidemill.errors import AccessError, TidemillError


async def sign_in_page(request: Request) -> Response:
    """The form for a key."""
    target = safe_next_path(request.query_params.get("next", ""))
    if signed_in_user(request) is not None:
        return RedirectResponse(target, 303, HEADERS)
    # Importing MLflow's client takes seconds: start it while the user types the key.
    context = context_of(request)
    context.cache.get("models", context.registered_models, patience=0.0)
    return show_public_page(request, "sign_in.html", {"problem": None, "next": target})


async def sign_in(request: Request) -> Response:
    """Check the key, and set the session cookie."""
    form = parse_form(request, await request.body())
    target = safe_next_path(form.get("next", ""))
    try:
        session = _open_session(request, form.get("key", "").strip())
    except TidemillError as problem:
        values = {"problem": problem, "next": target}
        return show_public_page(request, "sign_in.html", values, problem.status)
    response = RedirectResponse(target, 303, HEADERS)
    cookie = context_of(request).sessions.cookie(session)
    set_cookie(response, request, cookie_name(request), cookie)
    return response


def _open_session(request: Request, key: str) -> Session:
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise AccessError("Sign in from the console's own page.")
    context = context_of(request)
    context.sign_in_limits.take(client_address(request))
    return context.sessions.open(key)


def sign_out(request: PageRequest) -> Response:
    """End the session."""
    request.context.sessions.end(request.user.session)
    return redirect(request, f"{ROOT}/sign-in?{urlencode({'next': ROOT + '/'})}")


def safe_next_path(path: str) -> str:
    """The path if it is in the console, otherwise the overview: no redirects to other sites."""
    safe = path.startswith(f"{ROOT}/") and "\\" not in path and path.isprintable()
    return path if safe and not path.startswith(f"{ROOT}/sign-") else f"{ROOT}/"

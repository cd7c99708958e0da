"""The console as one ASGI application, to be mounted at /console."""

from __future__ import annotations

import logging
import mimetypes
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidemill.console import render
from tidemill.console.context import ConsoleContext
from tidemill.console.live import StreamCounter
from tidemill.console.page_request import HEADERS, ROOT, Make, action, page, problem_answer
from tidemill.console.pages import (
    activity,
    challenger,
    compare,
    jobs,
    models,
    monitoring,
    overview,
    predict,
    promotion,
    settings,
    sign_in,
    training,
)
from tidemill.console.session import Sessions
from tidemill.errors import MethodError, NotFoundError, TidemillError
from tidemill.keyring import Scope
from tidemill.platform import Platform
from tidemill.stores.api_keys import WatchedKeyring
from tidemill.stores.rate_limits import RateLimits

log = logging.getLogger(__name__)

#: path, what makes the page, and the scope without which it is not shown.
PAGES: tuple[tuple[str, Make, Scope | None], ...] = (
    ("/", overview.overview, None),
    ("/models", models.models, None),
    ("/models/{name}", models.model, None),
    ("/models/{name}/compare", compare.compare, None),
    ("/models/{name}/challenger", challenger.challenger, None),
    ("/models/{name}/challenger/traffic", challenger.confirm_traffic, "promote"),
    ("/models/{name}/promote", promotion.confirm_promotion, "promote"),
    ("/models/{name}/rollback", promotion.confirm_rollback, "promote"),
    ("/models/{name}/versions/{version}/stage", promotion.confirm_stage, "promote"),
    ("/models/{name}/versions/{version}/pictures/{file}", models.picture, None),
    ("/models/{name}/try", predict.prediction_form, None),
    ("/models/{name}/monitoring", monitoring.monitoring, None),
    ("/monitoring", monitoring.overview, None),
    ("/jobs", jobs.jobs, None),
    ("/jobs/{id}", jobs.job, None),
    ("/train", training.training_form, "train"),
    ("/audit", activity.audit, "admin"),
    ("/audit/verify", activity.verify, "admin"),
    ("/audit/export", activity.export_audit, "admin"),
    ("/logs", activity.logs, "admin"),
    ("/requests", activity.requests, "admin"),
    ("/requests/export", activity.export_requests, "admin"),
    ("/settings", settings.settings, None),
    ("/settings/keys/{id}/revoke", settings.confirm_revocation, "admin"),
)

#: The same for what changes something.
ACTIONS: tuple[tuple[str, Make, Scope | None], ...] = (
    ("/models/{name}/challenger/traffic", challenger.set_traffic, "promote"),
    ("/models/{name}/promote", promotion.promote_version, "promote"),
    ("/models/{name}/rollback", promotion.roll_back, "promote"),
    ("/models/{name}/versions/{version}/stage", promotion.set_stage, "promote"),
    ("/models/{name}/predict", predict.predict, "predict"),
    ("/models/{name}/score", predict.score, "predict"),
    ("/models/{name}/look", monitoring.check_now, "train"),
    ("/triggers/{id}/dismiss", monitoring.dismiss, "train"),
    ("/jobs/{id}/cancel", jobs.cancel, "train"),
    ("/jobs/{id}/repeat", jobs.submit_again, "train"),
    ("/train", training.submit_training, "train"),
    ("/settings/keys", settings.create_key, "admin"),
    ("/settings/keys/{id}/revoke", settings.revoke_key, "admin"),
    ("/sign-out", sign_in.sign_out, None),
)


def create_console(platform: Platform, keyring: WatchedKeyring, limits: RateLimits) -> Starlette:
    """The application over a platform, which the caller opens and closes."""
    sessions = Sessions(keyring, platform.settings.console_idle)
    context = ConsoleContext(platform, sessions, limits)
    routes = [
        Route("/sign-in", sign_in.sign_in_page(context)),
        Route("/sign-in", sign_in.sign_in(context), methods=["POST"]),
        Route("/static/{name}", _static),
    ]
    routes += [Route(path, page(context, make, scope)) for path, make, scope in PAGES]
    routes += [
        Route(path, action(context, make, scope), methods=["POST"]) for path, make, scope in ACTIONS
    ]
    app = Starlette(routes=_merged(routes), exception_handlers=_handlers(context))
    app.state.streams = StreamCounter()
    app.state.context = context
    return app


def _merged(routes: list[Route]) -> list[Route]:
    """One route for each path, so that another verb is told from another path."""
    by_path: dict[str, list[Route]] = {}
    for route in routes:
        by_path.setdefault(route.path, []).append(route)
    return [_either(path, found) for path, found in by_path.items()]


def _either(path: str, found: list[Route]) -> Route:
    endpoints = {
        method: route.endpoint for route in found for method in route.methods or () if method
    }

    async def endpoint(request: Request) -> Response:
        request.scope["route"] = shown
        answer: Response = await endpoints[request.method](request)
        return answer

    shown = Route(f"{ROOT}{path}", endpoint)  # what the request log and the metrics call it
    return Route(path, endpoint, methods=list(endpoints))


def _handlers(context: ConsoleContext) -> dict[Any, Any]:
    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = _known(request, error)
        elif not isinstance(error, TidemillError):
            log.error("%s failed", request.url.path, exc_info=error)
        return problem_answer(request, error, context)

    return {TidemillError: answer, HTTPException: answer, Exception: answer}


def _known(request: Request, error: HTTPException) -> TidemillError:
    if error.status_code == 405:
        return MethodError("Another verb is needed here.")
    return NotFoundError(f"There is no page {request.url.path}.")


async def _static(request: Request) -> Response:
    """A file of ours; its address has a stamp of its content, so it may be kept for ever."""
    name = request.path_params["name"]
    if name not in render.stamps():
        raise NotFoundError(f"There is no file {name}.")
    content = resources.files("tidemill.console").joinpath("static", name).read_bytes()
    media = mimetypes.guess_type(name)[0] or "application/octet-stream"
    kept = {
        **HEADERS,
        "Cache-Control": "public, max-age=31536000, immutable",
    }
    return Response(content, 200, kept, media)

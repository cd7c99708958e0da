"""The console as one ASGI application, mounted at /console: its pages and actions by path."""

from __future__ import annotations

import mimetypes
from importlib import resources

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidemill.console import render
from tidemill.console.endpoints import ERROR_HANDLERS, PageFunction, action, merge_methods, page
from tidemill.console.live import StreamCounter
from tidemill.console.page_request import ConsoleContext
from tidemill.console.pages import (
    activity,
    challenger,
    challenger_traffic,
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
from tidemill.console.responses import HEADERS
from tidemill.console.session import Sessions
from tidemill.console.sign_in_limits import sign_in_limits
from tidemill.errors import NotFoundError
from tidemill.keyring import Scope
from tidemill.platform import Platform
from tidemill.stores.api_keys import WatchedKeyring
from tidemill.stores.ended_sessions import EndedSessions
from tidemill.stores.rate_limits import RateLimits

#: Path, page function, and the scope that the page needs.
PAGES: tuple[tuple[str, PageFunction, Scope | None], ...] = (
    ("/", overview.overview, None),
    ("/models", models.models, None),
    ("/models/{name}", models.model, None),
    ("/models/{name}/compare", compare.compare, None),
    ("/models/{name}/challenger", challenger.challenger, None),
    ("/models/{name}/challenger/traffic", challenger_traffic.confirm_traffic, "promote"),
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

#: The same for actions, which change something.
ACTIONS: tuple[tuple[str, PageFunction, Scope | None], ...] = (
    ("/models/{name}/challenger/traffic", challenger_traffic.set_traffic, "promote"),
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
    """Create the application for a platform, which the caller opens and closes."""
    routes = [
        Route("/sign-in", sign_in.sign_in_page),
        Route("/sign-in", sign_in.sign_in, methods=["POST"]),
        Route("/static/{name}", _static_file),
        *(Route(path, page(function, scope)) for path, function, scope in PAGES),
        *(
            Route(path, action(function, scope), methods=["POST"])
            for path, function, scope in ACTIONS
        ),
    ]
    app = Starlette(routes=merge_methods(routes), exception_handlers=ERROR_HANDLERS)
    sessions = Sessions(keyring, platform.settings.console_idle, EndedSessions(platform.database))
    app.state.streams = StreamCounter()
    app.state.context = ConsoleContext(
        platform, sessions, limits, sign_in_limits(platform.settings)
    )
    return app


async def _static_file(request: Request) -> Response:
    """A static file. Its URL contains a hash of its content, so browsers may cache it forever."""
    name = request.path_params["name"]
    if name not in render.hashes():
        raise NotFoundError(f"There is no file {name}.")
    content = resources.files("tidemill.console").joinpath("static", name).read_bytes()
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    headers = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
    return Response(content, 200, headers, media_type)

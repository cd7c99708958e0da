"""The control plane as one ASGI application, behind the data plane or served alone."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.responses import RedirectResponse, Response

import tidemill
from tidemill.api import problems
from tidemill.api.dependencies import ApiState
from tidemill.api.metrics import ApiMetrics
from tidemill.api.middleware import RequestRecorder, Tracing
from tidemill.api.monitoring_metrics import MonitoringMetrics
from tidemill.api.request_border import RequestBorder
from tidemill.api.request_queues import RequestQueues
from tidemill.api.routes import (
    experiments,
    feedback,
    health,
    jobs,
    models,
    monitoring,
    operations,
    promotion,
    train,
)
from tidemill.api.schemas import Problem
from tidemill.console.app import create_console
from tidemill.platform import Platform
from tidemill.serving.protocols.docs_page import docs_page
from tidemill.stores.api_keys import WatchedKeyring
from tidemill.stores.rate_limits import RateLimits
from tidemill.traces import open_traces

#: As the console's, except that the page has its style in itself and no script at all.
DOCS_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}

ERRORS = {
    code: {"model": Problem, "description": description}
    for code, description in {
        "4XX": "The request was refused",
        "5XX": "The server failed",
    }.items()
}


def create_app(platform: Platform) -> FastAPI:
    """Create the application for a platform, which the caller opens and closes.

    Raises:
        SettingsError: The rate limit or its URL is invalid.
    """
    settings = platform.settings
    state = ApiState(
        platform=platform,
        keyring=WatchedKeyring(settings.keys_file),
        limits=RateLimits(settings.limits_url, settings.api_rate_limit),
        metrics=ApiMetrics(platform.jobs, settings.home),
    )
    state.metrics.registry.register(
        MonitoringMetrics(platform.monitoring_results, platform.triggers)
    )
    app = FastAPI(
        title="Tidemill",
        version=tidemill.__version__,
        description="Train, register, promote, monitor and retrain models.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,  # type: ignore[arg-type]
        middleware=[
            Middleware(RequestRecorder, state=state),
            Middleware(Tracing, traces=open_traces("tidemill-api")),
            Middleware(problems.CatchAll),
            Middleware(RequestBorder, limit=settings.api_max_body),
            Middleware(
                RequestQueues,
                readers=settings.api_readers,
                writers=settings.api_writers,
                patience=settings.api_wait,
            ),
        ],
    )
    app.state.tidemill = state
    problems.install(app)
    for module in (
        health,
        train,
        jobs,
        experiments,
        models,
        promotion,
        feedback,
        monitoring,
        operations,
    ):
        app.include_router(module.router)
    _add_short_paths(app)
    if settings.console == "on":
        _add_console(app, state)
    return app


def _add_console(app: FastAPI, state: ApiState) -> None:
    """Mount the console, and redirect `/` to it."""
    app.mount("/console", create_console(state.platform, state.keyring, state.limits))

    @app.get("/", include_in_schema=False)
    def root() -> RedirectResponse:
        return RedirectResponse("/console/")


def _add_short_paths(app: FastAPI) -> None:
    """Redirect the usual paths of the API documentation."""

    @app.get("/docs", include_in_schema=False)
    def docs() -> RedirectResponse:
        return RedirectResponse("/api/docs")

    @app.get("/api/docs", include_in_schema=False)
    def page() -> Response:
        document = app.openapi()
        return Response(docs_page(document, "/api/openapi.json"), 200, DOCS_HEADERS, "text/html")

    @app.get("/openapi.json", include_in_schema=False)
    def schema() -> RedirectResponse:
        return RedirectResponse("/api/openapi.json")

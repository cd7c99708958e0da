"""Turn errors into responses: the one place where the control plane does so."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.errors import (
    MalformedError,
    MethodError,
    NotFoundError,
    RequestError,
    TidemillError,
    UnavailableError,
)
from tidemill.stores.jobs.retryability import classify

log = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    """Answer every error of this application with problem+json."""
    app.add_exception_handler(TidemillError, _handle_own)
    app.add_exception_handler(RequestValidationError, _handle_validation)
    app.add_exception_handler(HTTPException, _handle_http)


class CatchAll:
    """Answers unhandled errors, inside `RequestRecorder` so that they are logged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_started(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_started)
        except Exception as error:
            if started:
                raise
            await _unexpected(error)(scope, receive, send)


def problem_response(error: TidemillError, headers: Mapping[str, str] | None = None) -> Response:
    """The error as a problem+json response (RFC 9457)."""
    fields = dict(headers or {})
    if isinstance(error, UnavailableError):
        fields.setdefault("Retry-After", "5")
    return Response(
        msgspec.json.encode(error.problem()),
        status_code=error.status,
        media_type="application/problem+json",
        headers=fields,
    )


def validation_problem(errors: list[dict[str, Any]]) -> TidemillError:
    """The first validation error of a request, with the number of further ones."""
    first = errors[0]
    if first["type"] in ("json_invalid", "missing") and first["loc"] in (("body",), ()):
        return MalformedError("The request needs a JSON body.", field="body")
    if first["loc"] == ("body",):
        return RequestError(
            "The body is not a JSON object sent as application/json.",
            field="body",
            expected="a JSON object",
        )
    if first["type"] == "json_invalid":
        return MalformedError(f"The body is not JSON: {first['msg']}.", field="body")
    where = [str(part) for part in first["loc"]]
    field = ".".join(where[1:]) or where[0]
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    return RequestError(f"'{field}' in the {where[0]}: {first['msg']}{more}.", field=field)


async def _handle_own(_: Request, error: Exception) -> Response:
    assert isinstance(error, TidemillError)
    if error.status >= 500:
        log.warning("%s", error)
    return problem_response(error)


async def _handle_validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(validation_problem(list(error.errors())))


async def _handle_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kinds: dict[int, type[TidemillError]] = {404: NotFoundError, 405: MethodError}
    otherwise = MalformedError if error.status_code < 500 else TidemillError
    kind = kinds.get(error.status_code, otherwise)
    words = {
        404: f"There is no route {request.url.path}.",
        405: f"{request.method} is not allowed here.",
    }
    problem = kind(words.get(error.status_code, str(error.detail)))
    return problem_response(problem, error.headers)


def _unexpected(error: Exception) -> Response:
    """503 if a service is down; otherwise 500 without details, which are only logged."""
    if classify(error).retryable:
        log.warning("a service is down: %s", error)
        return problem_response(UnavailableError(f"A required service is down: {error}"))
    log.error("request failed", exc_info=error)
    return problem_response(TidemillError("Internal error; see the server's log."))

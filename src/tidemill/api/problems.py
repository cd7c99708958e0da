"""Errors as answers: the one place where the control plane turns what went wrong into HTTP."""

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
    """Answer every error on this application with problem+json."""
    app.add_exception_handler(TidemillError, _answer_own)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_http)


class CatchAll:
    """Answers what no handler knows, inside the recorder, so that the log has it too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, note)
        except Exception as error:
            if started:
                raise
            await _answer_any(error)(scope, receive, send)


def problem_response(error: TidemillError, headers: Mapping[str, str] | None = None) -> Response:
    """The error as a response."""
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
    """The first thing wrong with a request, named; how many more there are is said."""
    first = errors[0]
    if first["type"] in ("json_invalid", "missing") and first["loc"] in (("body",), ()):
        return MalformedError("The request needs a body of JSON.", field="body")
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


async def _answer_own(_: Request, error: Exception) -> Response:
    assert isinstance(error, TidemillError)
    if error.status >= 500:
        log.warning("%s", error)
    return problem_response(error)


async def _answer_validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(validation_problem(list(error.errors())))


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kinds: dict[int, type[TidemillError]] = {404: NotFoundError, 405: MethodError}
    otherwise = MalformedError if error.status_code < 500 else TidemillError
    kind = kinds.get(error.status_code, otherwise)
    words = {404: f"There is nothing at {request.url.path}.", 405: "Another verb is needed here."}
    problem = kind(words.get(error.status_code, str(error.detail)))
    return problem_response(problem, error.headers)


def _answer_any(error: Exception) -> Response:
    """A part that is down is a 503; anything else is a fault of ours, told without its inside."""
    if classify(error).retryable:
        log.warning("a part is unreachable: %s", error)
        return problem_response(UnavailableError(f"A part that is needed is down: {error}"))
    log.error("a request failed", exc_info=error)
    return problem_response(TidemillError("Something went wrong here; the log says what."))

"""ASGI middleware that refuses bodies over a limit, and what no store accepts."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.api.problems import problem_response
from tidemill.border import check_json, check_text
from tidemill.errors import MalformedError, TidemillError, TooLargeError

FORM = "application/x-www-form-urlencoded"


class RequestBorder:
    """Reads the whole body, and refuses it if it is over `limit` bytes or cannot be stored."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            _check_address(scope)
            self._check_length(headers)
            body = await self._read(receive)
            _check_body(headers.get("content-type", ""), body)
        except TidemillError as problem:
            await problem_response(problem)(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    def _check_length(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if not re.fullmatch("[0-9]{1,19}", length):
            raise MalformedError("Content-Length is not a number.", field="Content-Length")
        if int(length) > self._limit:
            raise self._too_large()

    async def _read(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return bytes(body)
            body += message.get("body", b"")
            if len(body) > self._limit:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_large(self) -> TooLargeError:
        return TooLargeError(
            f"The body is larger than {self._limit} bytes.",
            field="body",
            remedy="The operator can raise TIDEMILL_API_MAX_BODY.",
        )


def _check_address(scope: Scope) -> None:
    check_text(scope["path"], "path")
    check_text(unquote_plus(scope["query_string"].decode("latin-1")), "query")


def _check_body(media_type: str, body: bytes) -> None:
    if media_type.startswith(FORM):
        check_text(unquote_plus(body.decode("latin-1")), "body")
    else:
        check_json(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns the body read already, then what the server sends."""
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay

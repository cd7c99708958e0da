"""Parts of the fast protocol: known request heads, client addresses, default header lines."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import msgspec
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from tidemill.serving.http.routes import Admission

LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)


class KnownHead(msgspec.Struct, frozen=True):
    """An admitted request head, split around the digits of its content length."""

    before: bytes
    after: bytes
    admission: Admission

    @classmethod
    def of(cls, read: bytes, admission: Admission) -> KnownHead | None:
        """Split the head at the start of a read; None if other bytes could mean something else.

        Every line must end with CRLF and hold one header of the admission, so that the parser and
        the comparison of bytes agree about where the head ends.

        Args:
            read: The bytes that begin with the admitted request.
        """
        end = read.find(b"\r\n\r\n")
        if not read.startswith(b"POST ") or end < 0:
            return None
        head = read[: end + 4]
        lines = len(admission.head.headers) + 2
        if head.count(b"\n") != lines or head.count(b"\r") != lines or head.count(b"\r\n") != lines:
            return None
        match = LENGTH.search(head)
        if match is None or LENGTH.search(head, match.end(1)) is not None:
            return None
        return cls(head[: match.start(1)], head[match.end(1) :], admission)


class ClientAddresses:
    """Finds the address of clients behind trusted proxies."""

    def __init__(self, trusted: str) -> None:
        self._middleware = ProxyHeadersMiddleware(_nothing, trusted_hosts=trusted)

    def of(self, peer: str, headers: list[tuple[bytes, bytes]]) -> str:
        """The client's address: the peer's, or the one that a trusted proxy reports.

        uvicorn's own middleware decides, as it does for the ASGI app. It never awaits anything, so
        a single step completes it.
        """
        if not any(name == b"x-forwarded-for" for name, _ in headers):
            return peer
        scope: Any = {"type": "http", "client": (peer, 0), "headers": headers, "scheme": "http"}
        with contextlib.suppress(StopIteration):
            self._middleware(scope, _nothing, _nothing).send(None)  # type: ignore[arg-type]
        client: str = scope["client"][0]
        return client


class DefaultLines:
    """uvicorn's default headers as lines. uvicorn replaces its list of them every second."""

    def __init__(self) -> None:
        self._headers: list[tuple[bytes, bytes]] | None = None
        self._lines = b""

    def of(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The lines for the list, built again only for a new list."""
        if headers is not self._headers:
            self._headers = headers
            self._lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        return self._lines


async def _nothing(*_: Any) -> None:
    """An app that does nothing."""

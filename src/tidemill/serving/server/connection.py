"""Parts of the fast protocol: known request heads, client addresses, default header lines."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from tidemill.serving.http.routes import Admission


class KnownHead(msgspec.Struct, frozen=True):
    """An admitted request head, split around the digits of its content length."""

    before: bytes
    after: bytes
    admission: Admission
    generation: object


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

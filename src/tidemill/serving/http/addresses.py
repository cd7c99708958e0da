"""What all connections of a server share on the fast lane: who a client is, and the lines that go
with every answer."""

from __future__ import annotations

import contextlib
from typing import Any

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware


class ClientAddresses:
    """Who the client is behind proxies."""

    def __init__(self, trusted: str) -> None:
        self._middleware = ProxyHeadersMiddleware(_nothing, trusted_hosts=trusted)

    def behind(self, peer: str, headers: list[tuple[bytes, bytes]]) -> str:
        """The client's address: the peer's, or the one a trusted proxy names.

        uvicorn's own middleware decides, so that both lanes agree; it never waits for anything, so
        one step runs it to its end.
        """
        if not any(name == b"x-forwarded-for" for name, _ in headers):
            return peer
        scope: Any = {"type": "http", "client": (peer, 0), "headers": headers, "scheme": "http"}
        with contextlib.suppress(StopIteration):
            self._middleware(scope, _nothing, _nothing).send(None)  # type: ignore[arg-type]
        client: str = scope["client"][0]
        return client


class DefaultLines:
    """uvicorn's default headers as lines; it replaces the list once a second."""

    def __init__(self) -> None:
        self._headers: list[tuple[bytes, bytes]] | None = None
        self._lines = b""

    def of(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The lines of the list, made anew when it is another one."""
        if headers is not self._headers:
            self._headers = headers
            self._lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        return self._lines


async def _nothing(*_: Any) -> None:
    """An app that answers nothing."""

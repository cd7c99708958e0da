"""Parts of the protocols: connection limits, known heads, client addresses, default headers."""

from __future__ import annotations

import contextlib
import re
import resource
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from tidemill.addresses import client_network, plain_address
from tidemill.serving.http.routes import Admission
from tidemill.serving.settings import ServingSettings

if TYPE_CHECKING:
    from asyncio import Protocol

RESERVED_FILES = 64  # file descriptors kept for the journal, the key file and models

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


class ConnectionLimits:
    """How many connections a process accepts, and how long each wait may last.

    Connections from trusted proxies count towards the total only: they carry many clients.
    """

    def __init__(self, settings: ServingSettings, addresses: ClientAddresses) -> None:
        self.head_seconds = settings.head_timeout
        self.body_seconds = settings.body_timeout
        self.write_seconds = settings.write_timeout
        self.shortest = min(
            self.head_seconds, self.body_seconds, self.write_seconds, settings.keep_alive
        )
        self._most = min(settings.max_connections, _free_files())
        self._most_per_address = settings.max_connections_per_address
        self._addresses = addresses
        self._open: dict[Protocol, str] = {}
        self._by_address: Counter[str] = Counter()

    def enter(self, connection: Protocol, client: tuple[str, int] | None) -> bool:
        """Count a new connection; False if there are too many, in all or from its address."""
        peer = client[0] if client else ""
        address = client_network(peer)
        if len(self._open) >= self._most:
            return False
        full = self._by_address[address] >= self._most_per_address
        if full and not self._addresses.trusts(peer):
            return False
        self._open[connection] = address
        self._by_address[address] += 1
        return True

    def leave(self, connection: Protocol) -> None:
        address = self._open.pop(connection, None)
        if address is None:
            return
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]


def _free_files() -> int:
    """How many connections leave enough file descriptors for everything else, at least one.

    The soft limit is raised to the hard one first: many systems start programs with 1024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft == resource.RLIM_INFINITY:
        return 1 << 20
    try:
        used = len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        used = RESERVED_FILES
    return max(1, soft - used - RESERVED_FILES)


class ClientAddresses:
    """Finds the address of clients behind trusted proxies."""

    def __init__(self, trusted: str) -> None:
        self._middleware = ProxyHeadersMiddleware(_nothing, trusted_hosts=trusted)

    def trusts(self, peer: str) -> bool:
        """Whether the peer is a trusted proxy."""
        return plain_address(peer) in self._middleware.trusted_hosts

    def of(self, peer: str, headers: list[tuple[bytes, bytes]]) -> str:
        """The client's address: the peer's, or the one that a trusted proxy reports.

        uvicorn's own middleware decides, as it does for the ASGI app. It never awaits anything, so
        a single step completes it.
        """
        peer = plain_address(peer)
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

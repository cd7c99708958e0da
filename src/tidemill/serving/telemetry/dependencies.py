"""Whether MLflow and Redis can be reached, for /ready: asked in the background, answered at once.

The data plane needs neither of them to serve. An operator who wants traffic to go elsewhere while
one of them is down says so with TIDEMILL_READY_REQUIRES.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from urllib.parse import SplitResult, urlsplit

from tidemill.errors import SettingsError

SECONDS = 2.0
EVERY = 5.0
PARTS = ("mlflow", "redis")
PORTS = {"http": 80, "https": 443, "redis": 6379, "rediss": 6379}


class DependencyProbes:
    """The last known state of each part.

    Args:
        urls: The part's address by its name; None for one that is not configured.
        required: Names without which the server is not ready.

    Raises:
        SettingsError: A required part is unknown.
    """

    def __init__(self, urls: dict[str, str | None], required: str = "") -> None:
        self._urls = urls
        self._required = [name.strip() for name in required.split(",") if name.strip()]
        for name in self._required:
            if name not in PARTS:
                raise SettingsError(
                    f"TIDEMILL_READY_REQUIRES names '{name}'.",
                    field="TIDEMILL_READY_REQUIRES",
                    expected=f"any of {', '.join(PARTS)}",
                )
        self._states = {name: _initial(urls.get(name)) for name in PARTS}

    def report(self) -> dict[str, str]:
        """For each part `ok`, `unreachable`, `not asked yet`, `local` (a file or database that no
        one serves) or `not configured`."""
        return dict(self._states)

    def unmet(self) -> list[str]:
        """Required parts that were not found reachable."""
        return [n for n in self._required if self._states[n] not in ("ok", "local")]

    def unreachable(self) -> list[str]:
        """Configured parts that cannot be reached."""
        return [name for name, state in self._states.items() if state == "unreachable"]

    async def run(self, seconds: float = EVERY) -> None:
        """Look at all parts for ever."""
        while True:
            await self.probe_all()
            await asyncio.sleep(seconds)

    async def probe_all(self) -> None:
        """Look at each part once."""
        for name, url in self._urls.items():
            if url and self._states[name] != "local":
                self._states[name] = "ok" if await reachable(url) else "unreachable"


async def reachable(url: str, seconds: float = SECONDS) -> bool:
    """Whether something answers at the address: HTTP to `/health`, PING for Redis."""
    parts = urlsplit(url)
    with contextlib.suppress(
        OSError, ValueError, asyncio.TimeoutError, asyncio.IncompleteReadError
    ):
        return await asyncio.wait_for(_ask(parts), seconds)
    return False


def _initial(url: str | None) -> str:
    if not url:
        return "not configured"
    return "not asked yet" if urlsplit(url).scheme in PORTS else "local"


async def _ask(parts: SplitResult) -> bool:
    secure = ssl.create_default_context() if parts.scheme in ("https", "rediss") else None
    port = parts.port or PORTS[parts.scheme]
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=secure)
    try:
        writer.write(_question(parts))
        answer = await reader.readline()
    finally:
        writer.close()
    if parts.scheme.startswith("http"):
        # A server that asks for a login is there; one that fails is not.
        return answer.startswith(b"HTTP/1.") and answer[9:10] in b"234"
    # Redis that wants a password first says so, which shows that it is there.
    return answer.startswith((b"+PONG", b"-NOAUTH", b"-NOPERM"))


def _question(parts: SplitResult) -> bytes:
    if parts.scheme.startswith("http"):
        path = parts.path.rstrip("/") + "/health"
        return (
            f"GET {path} HTTP/1.1\r\nHost: {parts.hostname}\r\nConnection: close\r\n\r\n".encode()
        )
    return b"PING\r\n"

"""Probes MLflow and Redis in the background, for /ready.

The data plane needs neither of them to serve. To send traffic elsewhere while one of them is down,
list it in TIDEMILL_READY_REQUIRES.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from urllib.parse import SplitResult, urlsplit

from tidemill.errors import SettingsError

TIMEOUT_SECONDS = 2.0
INTERVAL_SECONDS = 5.0
DEPENDENCIES = ("mlflow", "redis")
PORTS = {"http": 80, "https": 443, "redis": 6379, "rediss": 6379}


class DependencyProbes:
    """The last known state of each dependency.

    Args:
        urls: URL by name of the dependency; None if it is not configured.
        required: Comma-separated names of the dependencies that /ready requires.

    Raises:
        SettingsError: A required name is unknown.
    """

    def __init__(self, urls: dict[str, str | None], required: str = "") -> None:
        self._urls = urls
        self._required = [name.strip() for name in required.split(",") if name.strip()]
        for name in self._required:
            if name not in DEPENDENCIES:
                raise SettingsError(
                    f"TIDEMILL_READY_REQUIRES contains the unknown name '{name}'.",
                    field="TIDEMILL_READY_REQUIRES",
                    expected=f"any of {', '.join(DEPENDENCIES)}",
                )
        self._states = {name: _initial(urls.get(name)) for name in DEPENDENCIES}

    def report(self) -> dict[str, str]:
        """The state by name: `ok`, `unreachable`, `not asked yet`, `local` (a file or an embedded
        database) or `not configured`."""
        return dict(self._states)

    def unmet(self) -> list[str]:
        """Required dependencies that are not known to be reachable."""
        return [n for n in self._required if self._states[n] not in ("ok", "local")]

    def unreachable(self) -> list[str]:
        """Configured dependencies that cannot be reached."""
        return [name for name, state in self._states.items() if state == "unreachable"]

    async def run(self, seconds: float = INTERVAL_SECONDS) -> None:
        """Probe all dependencies forever."""
        while True:
            await self.probe_all()
            await asyncio.sleep(seconds)

    async def probe_all(self) -> None:
        """Probe each dependency once."""
        for name, url in self._urls.items():
            if url and self._states[name] != "local":
                self._states[name] = "ok" if await reachable(url) else "unreachable"


async def reachable(url: str, seconds: float = TIMEOUT_SECONDS) -> bool:
    """Whether a server answers at the URL: to GET /health over HTTP, to PING for Redis."""
    parts = urlsplit(url)
    with contextlib.suppress(
        OSError, ValueError, asyncio.TimeoutError, asyncio.IncompleteReadError
    ):
        return await asyncio.wait_for(_probe(parts), seconds)
    return False


def _initial(url: str | None) -> str:
    if not url:
        return "not configured"
    return "not asked yet" if urlsplit(url).scheme in PORTS else "local"


async def _probe(parts: SplitResult) -> bool:
    secure = ssl.create_default_context() if parts.scheme in ("https", "rediss") else None
    port = parts.port or PORTS[parts.scheme]
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=secure)
    try:
        writer.write(_request(parts))
        answer = await reader.readline()
    finally:
        writer.close()
    if parts.scheme.startswith("http"):
        # A server that demands a login is up; one that answers 5xx is not.
        return answer.startswith(b"HTTP/1.") and answer[9:10] in b"234"
    # A Redis that demands a password is up.
    return answer.startswith((b"+PONG", b"-NOAUTH", b"-NOPERM"))


def _request(parts: SplitResult) -> bytes:
    if parts.scheme.startswith("http"):
        path = parts.path.rstrip("/") + "/health"
        return (
            f"GET {path} HTTP/1.1\r\nHost: {parts.hostname}\r\nConnection: close\r\n\r\n".encode()
        )
    return b"PING\r\n"

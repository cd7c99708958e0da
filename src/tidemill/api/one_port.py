"""Both planes on one port: the data plane answers its own paths, the control plane the rest.

    python -m tidemill.api.one_port --port 8000

The data plane is there within a second. The control plane's packages take several; they are
imported by a thread, and only a request for one of its own paths waits for them.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec

from tidemill.errors import UnavailableError
from tidemill.serving import settings as serving_settings
from tidemill.serving.http import server

AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]
ENDING = "tidemill.ending"
BuiltApp = tuple[AsgiApp, Callable[[], None]]
log = logging.getLogger(__name__)


class BackgroundApp:
    """An ASGI application that is made by a thread while others are already served.

    Args:
        make: Gives the application and what closes it at the end.
    """

    def __init__(self, make: Callable[[], BuiltApp]) -> None:
        self._make = make
        self._making: asyncio.Task[BuiltApp] | None = None
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Tell what would go on for long, as streams do, that the server wants to end."""
        self._ending.set()

    def describe(self) -> dict[str, Any]:
        """The application's OpenAPI document; empty until it is there."""
        made = self._made()
        document: dict[str, Any] = made[0].openapi() if made else {}  # type: ignore[attr-defined]
        return document

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        try:
            app, _ = await asyncio.shield(self._begin())
        except Exception as error:
            await _unavailable(send, error)
            return
        scope[ENDING] = self._ending
        await app(scope, receive, send)

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        self._begin()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        made = self._made()
        if made is not None:
            await asyncio.to_thread(made[1])
        await send({"type": "lifespan.shutdown.complete"})

    def _begin(self) -> asyncio.Task[BuiltApp]:
        """Start to make the application, or give the making under way; a failure is tried again."""
        if self._making is None or (self._making.done() and self._making.exception() is not None):
            self._making = asyncio.create_task(asyncio.to_thread(self._logged))
        return self._making

    def _made(self) -> BuiltApp | None:
        making = self._making
        if making is None or not making.done() or making.exception() is not None:
            return None
        return making.result()

    def _logged(self) -> BuiltApp:
        try:
            return self._make()
        except Exception:
            log.exception("the control plane did not start")
            raise


async def _unavailable(send: Any, cause: Exception) -> None:
    problem = UnavailableError(
        f"The control plane did not start: {cause}", remedy="See logs/api.log in the home."
    ).problem()
    headers = [(b"content-type", b"application/problem+json"), (b"retry-after", b"5")]
    await send({"type": "http.response.start", "status": problem["status"], "headers": headers})
    await send({"type": "http.response.body", "body": msgspec.json.encode(problem)})


def main() -> None:
    """Serve both planes until a signal ends it; the data plane's settings are the environment's."""
    parser = argparse.ArgumentParser(prog="python -m tidemill.api.one_port")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--name", default="api", help="what its log file is called")
    options = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO)
    late = BackgroundApp(partial(control_plane, options.pop("name")))
    server.run(
        serving_settings.load(**options), fallback=late, describe=late.describe, on_ending=late.end
    )


def control_plane(name: str) -> BuiltApp:
    """The control plane's application over the platform that the settings describe.

    Args:
        name: What its log file is called.
    """
    from tidemill import logs
    from tidemill.api.app import create_app
    from tidemill.platform import Platform
    from tidemill.settings import Settings

    settings = Settings()
    logs.configure(
        name, level=settings.log_level, style=settings.log_format, folder=settings.log_folder
    )
    platform = Platform.open(settings)
    return create_app(platform), platform.close


if __name__ == "__main__":
    main()

"""Serve both planes on one port: the data plane its own paths, the control plane the rest.

    python -m tidemill.api.one_port --port 8000

The data plane is ready within a second. The control plane takes several seconds to import, which
happens in a thread; only requests for its own paths wait for it.
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
from tidemill.processes import program
from tidemill.serving import settings as serving_settings
from tidemill.serving.server import server

AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]
#: The key of an `asyncio.Event` in the ASGI scope that is set when the server shuts down.
SHUTDOWN_EVENT = "tidemill.shutdown"
BuiltApp = tuple[AsgiApp, Callable[[], None]]
log = logging.getLogger(__name__)


class BackgroundApp:
    """An ASGI application that a thread builds while the server already runs.

    Args:
        build: Returns the application and a function that closes it.
    """

    def __init__(self, build: Callable[[], BuiltApp]) -> None:
        self._build = build
        self._building: asyncio.Task[BuiltApp] | None = None
        self._shutdown = asyncio.Event()

    def shut_down(self) -> None:
        """Tell long responses, such as event streams, to end."""
        self._shutdown.set()

    def describe(self) -> dict[str, Any]:
        """The application's OpenAPI document; empty until the application is built."""
        built = self._built()
        document: dict[str, Any] = built[0].openapi() if built else {}  # type: ignore[attr-defined]
        return document

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        try:
            app, _ = await asyncio.shield(self._start())
        except Exception as error:
            await _unavailable(send, error)
            return
        scope[SHUTDOWN_EVENT] = self._shutdown
        await app(scope, receive, send)

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        self._start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        built = self._built()
        if built is not None:
            await asyncio.to_thread(built[1])
        await send({"type": "lifespan.shutdown.complete"})

    def _start(self) -> asyncio.Task[BuiltApp]:
        """The task that builds the application; a new one after a failure."""
        task = self._building
        if task is None or (task.done() and task.exception() is not None):
            self._building = task = asyncio.create_task(asyncio.to_thread(self._build_logged))
        return task

    def _built(self) -> BuiltApp | None:
        task = self._building
        if task is None or not task.done() or task.exception() is not None:
            return None
        return task.result()

    def _build_logged(self) -> BuiltApp:
        try:
            return self._build()
        except Exception:
            log.exception("the control plane did not start")
            raise


async def _unavailable(send: Any, cause: Exception) -> None:
    problem = UnavailableError(
        f"The control plane did not start: {cause}", remedy="See logs/api.log in the home folder."
    ).problem()
    headers = [(b"content-type", b"application/problem+json"), (b"retry-after", b"5")]
    await send({"type": "http.response.start", "status": problem["status"], "headers": headers})
    await send({"type": "http.response.body", "body": msgspec.json.encode(problem)})


@program()
def main() -> None:
    """Serve both planes until a signal arrives; the data plane is configured by the environment."""
    parser = argparse.ArgumentParser(prog="python -m tidemill.api.one_port")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--name", default="api", help="name of the log file")
    options = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO)
    control = BackgroundApp(partial(control_plane, options.pop("name")))
    server.run(
        serving_settings.load(**options),
        fallback=control,
        describe=control.describe,
        on_ending=control.shut_down,
    )


def control_plane(name: str) -> BuiltApp:
    """Build the control plane that the settings describe.

    Args:
        name: The name of the log file.
    """
    # Seconds of imports, which must run in the thread that builds the application.
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

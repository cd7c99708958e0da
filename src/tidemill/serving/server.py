"""Running the data plane: one process behind one socket, until a signal ends it."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import uvicorn

from tidemill.serving.app import App, ASGIApp
from tidemill.serving.lane import fast_lane
from tidemill.serving.service import Service
from tidemill.serving.settings import ServingSettings
from tidemill.serving.sockets import bind, url_of

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def run(
    settings: ServingSettings,
    *,
    fallback: ASGIApp | None = None,
    registry: Callable[[], CollectorRegistry | None] | None = None,
    describe: Callable[[], dict[str, Any]] | None = None,
    on_started: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; running requests get `settings.grace` seconds to end.

    Args:
        fallback: Answers every path that the data plane does not know.
        registry: Gives what is shown at /metrics with the data plane's own; None while it is not
            there yet.
        describe: The fallback's OpenAPI document, merged into the data plane's.
        on_started: Called with the base URL when the port is open and the first models are loaded.

    Raises:
        SettingsError: The port is taken, or a setting does not hold.
    """
    listener = bind(settings.host, settings.port)
    service = Service(settings, registry=registry, describe=describe)
    serve(settings, App(service, fallback), listener, on_started)


def serve(
    settings: ServingSettings,
    app: App,
    listener: socket.socket,
    on_started: Callable[[str], None] | None = None,
    parent: int | None = None,
) -> None:
    """Serve one app on a bound socket, in this process; no longer than a given parent lives."""
    server = Server(config(settings, app))
    server.parent = parent
    if on_started is not None:
        server.on_started = lambda: on_started(url_of(listener))
    server.run([listener])


def config(settings: ServingSettings, app: App) -> uvicorn.Config:
    """How uvicorn runs the app."""
    return uvicorn.Config(
        app,
        http=fast_lane(app),
        ws="auto",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        headers=[("server", "tidemill")],
        proxy_headers=True,
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=settings.grace,
    )


class Server(uvicorn.Server):
    """uvicorn's server, which tells when it listens and ends when its parent did."""

    on_started: Callable[[], None] | None = None
    parent: int | None = None

    async def on_tick(self, counter: int) -> bool:
        if self.parent is not None and os.getppid() != self.parent:
            self.should_exit = True
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What start-up made stays: the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        if self.started and self.on_started is not None:
            self.on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT as the wish to end, and end with exit code 0; uvicorn's own
        version raises the signal again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

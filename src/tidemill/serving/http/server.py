"""Running the data plane: one process behind one socket, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import uvicorn

from tidemill.serving.http.asgi import ASGIApp, ServingApp
from tidemill.serving.http.fast_protocol import protocol_class
from tidemill.serving.http.sockets import bind, url_of
from tidemill.serving.service import Service
from tidemill.serving.settings import ServingSettings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from tidemill.serving.model.pool import ModelPool

GC_THRESHOLDS = (50_000, 20, 50)


def run(
    settings: ServingSettings,
    *,
    fallback: ASGIApp | None = None,
    registry: Callable[[], CollectorRegistry | None] | None = None,
    describe: Callable[[], dict[str, Any]] | None = None,
    on_started: Callable[[str], None] | None = None,
    on_ending: Callable[[], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; running requests get `settings.grace` seconds to end.

    Args:
        fallback: Answers every path that the data plane does not know.
        registry: Gives what is shown at /metrics with the data plane's own; None while it is not
            there yet.
        describe: The fallback's OpenAPI document, merged into the data plane's.
        on_started: Called with the base URL when the port is open and the first models are loaded.
        on_ending: Called when the server begins to end, before it waits for running requests.

    Raises:
        SettingsError: The port is taken, or a setting does not hold.
    """
    listener = bind(settings.host, settings.port)
    service = Service(settings, registry=registry, describe=describe)
    serve(settings, ServingApp(service, fallback), listener, on_started, on_ending=on_ending)


def serve(
    settings: ServingSettings,
    app: ServingApp,
    listener: socket.socket,
    on_started: Callable[[str], None] | None = None,
    parent: int | None = None,
    on_ending: Callable[[], None] | None = None,
) -> None:
    """Serve one app on a bound socket, in this process; no longer than a given parent lives."""
    server = ServingServer(config(settings, app))
    server.parent = parent
    server.drain = settings.drain
    server.models = app.service.models
    server.on_ending = on_ending
    if on_started is not None:
        server.on_started = lambda: on_started(url_of(listener))
    server.run([listener])


def config(settings: ServingSettings, app: ServingApp) -> uvicorn.Config:
    """How uvicorn runs the app."""
    return uvicorn.Config(
        app,
        http=protocol_class(app),
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


class ServingServer(uvicorn.Server):
    """uvicorn's server, which tells when it listens and ends when its parent did."""

    on_started: Callable[[], None] | None = None
    on_ending: Callable[[], None] | None = None
    parent: int | None = None
    models: ModelPool | None = None
    drain: float = 0.0

    async def on_tick(self, counter: int) -> bool:
        if self._orphaned():
            self.should_exit = True
        return await super().on_tick(counter)

    def _orphaned(self) -> bool:
        return self.parent is not None and os.getppid() != self.parent

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What start-up made stays: the collector need not walk it again and again.
        # Requests make none of the cycles it looks for, so it looks seldom.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        if self.started and self.on_started is not None:
            self.on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.on_ending is not None:
            self.on_ending()
        if self.drain and self.models is not None:
            await self._turn_away(self.models)
        await super().shutdown(sockets)

    async def _turn_away(self, models: ModelPool) -> None:
        """Answer on for a while, but not ready, and end every connection with its next answer.

        A balancer then asks elsewhere before the port closes, and none of its connections is
        closed at the moment in which it sends a request over it.
        """
        models.draining = True
        protocol: Any = self.config.http_protocol_class
        protocol.draining = True
        for connection in self.server_state.connections:
            if isinstance(connection, protocol):
                connection.ending = True
        until = time.monotonic() + self.drain
        while time.monotonic() < until and not self.force_exit and not self._orphaned():
            await self.on_tick(0)
            await asyncio.sleep(0.1)

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

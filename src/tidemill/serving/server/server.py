"""Runs the data plane in one process, until a signal stops it."""

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
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn

from tidemill.serving.model.run_limits import RUNNING
from tidemill.serving.server.asgi import ASGIApp, ServingApp
from tidemill.serving.server.fast_protocol import protocol_class
from tidemill.serving.server.sockets import bind, url_of
from tidemill.serving.service import Service
from tidemill.serving.settings import ServingSettings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


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
    """Serve until SIGTERM or SIGINT; running requests get `settings.grace` seconds to finish.

    Args:
        fallback: The app for every path that the data plane does not know.
        registry: Returns more metrics to show at /metrics; None while there are none yet.
        describe: Returns the fallback's OpenAPI document, merged into the data plane's.
        on_started: Called with the base URL when the port is open and the first models are loaded.
        on_ending: Called when the shutdown begins, before running requests are awaited.

    Raises:
        SettingsError: The port is taken, or a setting is invalid.
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
    """Serve one app on a bound socket in this process, at most until the parent process ends."""
    started = partial(on_started, url_of(listener)) if on_started is not None else None
    server = ServingServer(settings, app, parent=parent, on_started=started, on_ending=on_ending)
    server.run([listener])
    RUNNING.leave()


def config(settings: ServingSettings, app: ServingApp) -> uvicorn.Config:
    """The uvicorn configuration for the app."""
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
    """uvicorn's server, with callbacks, a drain period, and a check that the parent is alive."""

    def __init__(
        self,
        settings: ServingSettings,
        app: ServingApp,
        *,
        parent: int | None = None,
        on_started: Callable[[], None] | None = None,
        on_ending: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config(settings, app))
        self._models = app.service.models
        self._drain_seconds = settings.drain
        self._parent = parent
        self._on_started = on_started
        self._on_ending = on_ending

    async def on_tick(self, counter: int) -> bool:
        if self._orphaned():
            self.should_exit = True
        return await super().on_tick(counter)

    def _orphaned(self) -> bool:
        return self._parent is not None and os.getppid() != self._parent

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # Objects from the start-up live as long as the process, so the collector skips them.
        # Requests create no reference cycles, so it rarely runs.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        if self.started and self._on_started is not None:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._on_ending is not None:
            self._on_ending()
        if self._drain_seconds:
            await self._drain()
        await super().shutdown(sockets)

    async def _drain(self) -> None:
        """Keep answering while not ready, and close every connection after its next response.

        A load balancer then stops using this server before the port closes, and never finds a
        connection closed at the moment it sends a request.
        """
        self._models.draining = True
        protocol: Any = self.config.http_protocol_class
        protocol.draining = True
        for connection in self.server_state.connections:
            if isinstance(connection, protocol):
                connection.ending = True
        until = time.monotonic() + self._drain_seconds
        while time.monotonic() < until and not self.force_exit and not self._orphaned():
            await self.on_tick(0)
            await asyncio.sleep(0.1)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop with exit code 0 on SIGTERM and SIGINT; uvicorn's own version raises the signal
        again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

"""Running the data plane: one process behind one socket, until a signal ends it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import uvicorn

from tidemill.errors import SettingsError
from tidemill.serving.app import App, ASGIApp
from tidemill.serving.lane import fast_lane
from tidemill.serving.service import Service
from tidemill.serving.settings import ServingSettings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def run(
    settings: ServingSettings,
    *,
    fallback: ASGIApp | None = None,
    registry: CollectorRegistry | None = None,
    describe: Callable[[], dict[str, Any]] | None = None,
    on_started: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; running requests get `settings.grace` seconds to end.

    Args:
        fallback: Answers every path that the data plane does not know.
        registry: Shown at /metrics with the data plane's own.
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
) -> None:
    """Serve one app on a bound socket, in this process."""
    server = Server(config(settings, app))
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
    """uvicorn's server, which tells when it listens."""

    on_started: Callable[[], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.on_started is not None:
            self.on_started()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        SettingsError: The port is taken or not ours to take.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"Port {port} on {host} cannot be used: {error.strerror}.",
            field="TIDEMILL_PORT",
            remedy="Stop what listens there, or choose another port with --port.",
        ) from error
    listener.set_inheritable(True)
    return listener


def url_of(listener: socket.socket) -> str:
    """The base URL of a socket, as a browser on this machine would write it."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

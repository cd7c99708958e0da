"""The listening socket and its address."""

from __future__ import annotations

import socket

from tidemill.errors import SettingsError


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet.

    Raises:
        SettingsError: The port is taken, or we may not use it.
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
            remedy="Stop the program that uses it, or choose another port with --port.",
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """The base URL of a socket, for clients on this machine."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

"""The listening socket and its address."""

from __future__ import annotations

import socket

from tidemill.addresses import bind_socket, http_url
from tidemill.errors import SettingsError


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet.

    Raises:
        SettingsError: The port is taken, or we may not use it.
    """
    try:
        return bind_socket(host, port)
    except OSError as error:
        raise SettingsError(
            f"Port {port} on {host} cannot be used: {error.strerror}.",
            field="TIDEMILL_PORT",
            remedy="Stop the program that uses it, or choose another port with --port.",
        ) from error


def url_of(listener: socket.socket) -> str:
    """The base URL of a socket, for clients on this machine."""
    return http_url(*listener.getsockname()[:2])

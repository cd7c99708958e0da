"""Find free ports, and refuse taken ones."""

from __future__ import annotations

import errno
import socket

from tidemill.addresses import bind_socket
from tidemill.errors import ConflictError

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A loopback port that no program uses at the moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def bind_error(host: str, port: int) -> OSError | None:
    """Why a server could not listen on a port; None if it could."""
    try:
        bind_socket(host, port).close()
    except OSError as error:
        return error
    return None


def check_port(host: str, port: int, option: str) -> None:
    """Refuse a port that a server cannot listen on.

    Args:
        option: The command-line option that sets the port, for the message.

    Raises:
        ConflictError: The port is in use, or may not be used.
    """
    error = bind_error(host, port)
    if error is None:
        return
    why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error})"
    raise ConflictError(
        f"Port {port} on {host} {why}.", remedy=f"Choose another with {option} PORT."
    ) from error

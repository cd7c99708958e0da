"""Addresses of servers and folders: URLs that hold whatever the name contains, and no proxy for
requests to this machine. See decision 199.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import urllib.request
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

LOOPBACK = ("localhost", "127.0.0.1", "::1")
#: Hosts that mean every address, and the address at which this machine reaches them.
UNSPECIFIED = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
FOLDER_SCHEME = "filesystem"
IPV6_CLIENT_BITS = 64


def bare_host(host: str) -> str:
    """Return a host without the brackets that URLs put around an IPv6 address."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def http_url(host: str, port: int) -> str:
    """Return the base URL of a server on this machine that listens on `host`."""
    name = UNSPECIFIED.get(bare_host(host), bare_host(host))
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def bind_socket(host: str, port: int) -> socket.socket:
    """Return a TCP socket bound to a host name or an IPv4 or IPv6 address; '' means all of IPv4.

    Raises:
        OSError: The port is taken, or the host is not an address of this machine.
    """
    family, kind, _, _, address = socket.getaddrinfo(
        bare_host(host) or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def bypass_proxies(*hosts: str) -> None:
    """Keep this process, and those it starts, from sending requests to this machine to a proxy.

    Args:
        hosts: More hosts that are addresses of this machine.
    """
    for name in ("NO_PROXY", "no_proxy"):
        before = os.environ.get(name) or os.environ.get(name.swapcase()) or ""
        known = [each.strip() for each in before.split(",") if each.strip()]
        wanted = [*LOOPBACK, *(bare_host(host) for host in hosts if host not in UNSPECIFIED)]
        os.environ[name] = ",".join(dict.fromkeys([*known, *wanted]))


def open_url(request: str | urllib.request.Request, timeout: float) -> Any:
    """Open a URL as `urllib` does, but one of this machine without a proxy.

    `urllib` compares NO_PROXY with a bracketed IPv6 address, which other clients do not understand.

    Raises:
        OSError: The server does not answer, or not with a 2xx status.
    """
    url = request if isinstance(request, str) else request.full_url
    if (urlsplit(url).hostname or "") in LOOPBACK:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(request, timeout=timeout)
    return urllib.request.urlopen(request, timeout=timeout)


def folder_url(path: Path) -> str:
    """Return the broker URL of a folder."""
    return f"{FOLDER_SCHEME}://{quote(str(path))}"


def folder_of(url: str) -> Path:
    """Return the folder of a broker URL."""
    return Path(unquote(urlsplit(url).path))


def client_network(address: str) -> str:
    """Return what limits count a client by: its IPv4 address, or the /64 of its IPv6 address.

    One client has a whole /64 of IPv6 addresses at least.
    """
    return _network(address) if ":" in address else address


@lru_cache(maxsize=4096)
def _network(address: str) -> str:
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, IPV6_CLIENT_BITS), strict=False))


def plain_address(address: str) -> str:
    """Return an IPv4 address that a socket for both families shows as IPv6 in its usual form."""
    return address[7:] if address.startswith("::ffff:") and "." in address else address

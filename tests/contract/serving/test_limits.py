"""What a connection may cost: sizes, numbers and times, for every phase of a request."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from .conftest import FLOATS, Running, Tidemill, make_shelf, starting, wait_until

ROW = msgspec.json.encode({"features": [3.0] * len(FLOATS)})
FAST = b"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
CHUNKED = FAST + b"Transfer-Encoding: chunked\r\n\r\n"
Limited = Callable[..., Tidemill]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    make_shelf(home / "shelf", ("classifier",))
    return home


@pytest.fixture
def limited(home: Path) -> Iterator[Limited]:
    with starting(home) as begin:
        yield begin


@pytest.fixture(scope="module")
def hasty(home: Path) -> Iterator[Tidemill]:
    """A server whose waits are short, one at a time being tested: they differ."""
    waits = {"keep_alive": 3, "head_timeout": 0.3, "body_timeout": 0.3, "write_timeout": 0.3}
    with starting(home) as begin:
        running = begin(**waits)
        running.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        yield running


@contextlib.contextmanager
def opened(server: Running) -> Iterator[socket.socket]:
    with server.connect() as connection:
        yield connection


def rest(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            found += data
    return found


def statuses(data: bytes) -> list[int]:
    return [int(part[:3]) for part in data.split(b"HTTP/1.1 ")[1:]]


def whole(body: bytes = ROW) -> bytes:
    return FAST + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def pour(connection: socket.socket, piece: bytes, times: int) -> int:
    """Send the piece again and again until the server has had enough; returns the bytes sent."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        for _ in range(times):
            connection.sendall(piece)
            sent += len(piece)
    return sent


def test_a_silent_connection_is_closed(hasty: Tidemill) -> None:
    with opened(hasty) as connection:
        assert rest(connection) == b""


@pytest.mark.parametrize(
    "half",
    [
        whole()[:-1],
        CHUNKED,
        CHUNKED + b"5\r\n{",
        CHUNKED + b"1\r\n{\r\n0\r\nTrailer: ",
    ],
)
@pytest.mark.parametrize("first", [b"", whole()], ids=["at once", "after another"])
def test_a_body_that_stops_half_way_is_refused_and_closed(
    hasty: Tidemill, half: bytes, first: bytes
) -> None:
    with opened(hasty) as connection:
        connection.sendall(first + half)
        assert statuses(rest(connection)) == [200] * bool(first) + [408]


@pytest.mark.parametrize("half", [b"P", FAST, FAST + b"X-Half: a", b"GET /health HTTP/1.1\r\n"])
@pytest.mark.parametrize("first", [b"", whole()], ids=["at once", "after another"])
def test_a_head_that_stops_half_way_is_closed(hasty: Tidemill, half: bytes, first: bytes) -> None:
    with opened(hasty) as connection:
        connection.sendall(first + half)
        assert statuses(rest(connection)) == [200] * bool(first)


def test_a_known_head_without_its_body_is_refused_and_closed(hasty: Tidemill) -> None:
    with opened(hasty) as connection:
        connection.sendall(whole())
        assert b" 200 " in connection.recv(65536)
        connection.sendall(whole()[:-5])
        assert statuses(rest(connection)) == [408]


def test_a_refused_request_whose_body_never_comes_gets_one_response(hasty: Tidemill) -> None:
    with opened(hasty) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\n")
        assert statuses(rest(connection)) == [404]


def test_a_client_that_does_not_read_is_disconnected(hasty: Tidemill) -> None:
    with opened(hasty) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(1)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while True:
                connection.sendall(whole())
        wait_until(lambda: not hasty.server.server_state.connections, "the connection to end")


@pytest.mark.parametrize(
    ("start", "piece", "times"),
    [
        (b"GET /health HTTP/1.1\r\n", b"a: b\r\n", 120),
        (b"GET /health HTTP/1.1\r\n", b"a: %b\r\n" % (b"b" * 10_000), 9),
        (b"GET /health HTTP/1.1\r\nlong: ", b"b" * 65_536, 1000),
        (b"GET /", b"b" * 65_536, 1000),
        (CHUNKED + b"1\r\n{\r\n0\r\n", b"a: b\r\n", 120),
        (CHUNKED + b"1\r\n{\r\n0\r\n", b"a: b\r\n" * 10_000, 1000),
        (CHUNKED + b"1\r\n{\r\n0\r\nlong: ", b"b" * 65_536, 1000),
        (CHUNKED + b"200000\r\n%b\r\n0\r\nlong: " % (b" " * (2 << 20)), b"b" * 65_536, 1000),
        (CHUNKED + b"1;", b"b" * 65_536, 1000),
        (CHUNKED, b"1;%b\r\n \r\n" % (b"b" * 1000), 100_000),
    ],
    ids=["fields", "bytes", "one field", "url", "trailers", "many trailers", "one trailer",
         "one trailer after a large body",
         "extension", "extensions"],
)  # fmt: skip
@pytest.mark.parametrize("path", [b"/predict", b"/nothing"])
def test_what_surrounds_a_body_is_bounded(
    limited: Limited, start: bytes, piece: bytes, times: int, path: bytes
) -> None:
    server = limited()
    with opened(server) as connection:
        connection.sendall(start.replace(b"/predict", path))
        assert pour(connection, piece, times) < 8 << 20
        assert statuses(rest(connection))[-1:] in ([431], [404], [])


def test_a_body_of_the_smallest_chunks_is_read(limited: Limited) -> None:
    with opened(limited()) as connection:
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in ROW + b" " * 100_000)
        connection.sendall(CHUNKED + chunks + b"0\r\nX-Trailer: a\r\n\r\n")
        assert b" 200 " in connection.recv(65536)


def test_trailers_do_not_become_headers(limited: Limited) -> None:
    async def count(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        while (await receive()).get("more_body"):
            pass
        names = b",".join(name for name, _ in scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": names})

    with opened(limited(fallback=count)) as connection:
        head = b"POST /other HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + b"1\r\na\r\n0\r\nX-Api-Key: b\r\n\r\n")
        found = connection.recv(65536)
        while b"transfer-encoding" not in found.partition(b"\r\n\r\n")[2]:
            found += connection.recv(65536)
    assert b"x-api-key" not in found


def test_connections_are_limited_in_total(limited: Limited) -> None:
    server = limited(max_connections=2)
    with opened(server) as first, opened(server) as second:
        for each in (first, second):
            each.sendall(whole())
            assert b" 200 " in each.recv(65536)
        with opened(server) as third:
            assert statuses(rest(third)) == [503]
        first.close()
        wait_until(lambda: len(server.server.server_state.connections) == 1, "the end of the first")
        with opened(server) as fourth:
            fourth.sendall(whole())
            assert b" 200 " in fourth.recv(65536)


@pytest.mark.parametrize(("trusted", "status"), [("127.0.0.1", 200), ("10.0.0.1", 503)])
def test_connections_are_limited_by_address_but_for_trusted_proxies(
    limited: Limited, trusted: str, status: int
) -> None:
    server = limited(max_connections_per_address=1, trusted_proxies=trusted)
    with opened(server) as first:
        first.sendall(whole())
        assert b" 200 " in first.recv(65536)
        with opened(server) as second, contextlib.suppress(ConnectionError):
            second.sendall(whole())
            assert b" %d " % status in second.recv(65536)


def test_a_pipelined_request_is_answered_before_an_invalid_one_is_refused(
    limited: Limited,
) -> None:
    with opened(limited()) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\nrubbish\r\n\r\n")
        assert statuses(rest(connection))[0] == 200

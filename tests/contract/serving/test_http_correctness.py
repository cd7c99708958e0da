"""HTTP correctness: the same raw exchanges with Tidemill and with a plain uvicorn app."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import FLOATS, Running, Tidemill, make_shelf, starting, wait_read, wait_until

ROW = msgspec.json.encode({"features": [3.0] * len(FLOATS)})
KEEP_ALIVE = 1  # seconds, where that is what is tested


class Got(NamedTuple):
    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Client:
    """A connection that reads responses one by one."""

    def __init__(self, server: Running) -> None:
        self.socket = server.connect()
        self.rest = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self, *, head: bool = False) -> Got:
        """The next answer; raises EOFError when the server closed."""
        while b"\r\n\r\n" not in self.rest:
            self._more()
        top, _, self.rest = self.rest.partition(b"\r\n\r\n")
        first, *lines = top.split(b"\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(b": ") for line in lines)}
        status = int(first.split()[1])
        length = 0 if head or status in (100, 204) else int(headers[b"content-length"])
        while len(self.rest) < length:
            self._more()
        body, self.rest = self.rest[:length], self.rest[length:]
        return Got(status, headers, body)

    def closed(self) -> bool:
        """Whether the server ends the connection without another byte."""
        try:
            return self.rest == b"" and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _more(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise EOFError(self.rest)
        self.rest += data


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """A plain ASGI app that returns the length of the body."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    size, more = 0, scope["method"] == "POST"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        more = message["more_body"]
    wanted = dict(scope["headers"]).get(b"x-request-id", b"none")
    body = b'{"length": %d}' % size
    headers = [(b"content-length", b"%d" % len(body)), (b"x-request-id", wanted)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def serving(kind: str, home: Path, keep_alive: int = 120) -> Iterator[Running]:
    """Tidemill, or the plain app to compare it with."""
    if kind == "tidemill":
        make_shelf(home / "shelf")
        with starting(home) as begin:
            yield begin(keep_alive=keep_alive)
        return
    options = {"http": "httptools", "log_config": None, "timeout_keep_alive": keep_alive}
    running = Running(uvicorn.Server(uvicorn.Config(plain, **options)))
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module", params=["tidemill", "uvicorn"])
def server(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(request.param, tmp_path_factory.mktemp("home")) as running:
        # Small buffers in the kernel, so that the server's own are soon full.
        running.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        yield running


@pytest.fixture(params=["tidemill", "uvicorn"])
def mortal(request: Any, tmp_path: Path) -> Iterator[Running]:
    """A server for one test, which may stop it."""
    with serving(request.param, tmp_path) as running:
        yield running


@pytest.fixture(scope="module", params=["tidemill", "uvicorn"])
def impatient(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with a short idle timeout."""
    with serving(request.param, tmp_path_factory.mktemp("home"), KEEP_ALIVE) as running:
        yield running


@pytest.fixture
def connect(server: Running) -> Iterator[Callable[[], Client]]:
    """Opens connections to the server and closes them after the test."""
    opened: list[Client] = []

    def open_one() -> Client:
        opened.append(Client(server))
        return opened[-1]

    yield open_one
    for client in opened:
        client.socket.close()


Connect = Callable[[], Client]


def post(
    body: bytes = ROW, *lines: bytes, path: bytes = b"/predict", number: int | None = None
) -> bytes:
    """A plain POST with `number` as the request id, which the response repeats."""
    extra = b"".join(line + b"\r\n" for line in lines)
    if number is not None:
        extra += b"X-Request-ID: n%d\r\n" % number
    return (
        b"POST %b HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n%b"
        b"Content-Length: %d\r\n\r\n%b" % (path, extra, len(body), body)
    )


def id_of(got: Got) -> bytes:
    return got.headers[b"x-request-id"]


def test_a_connection_is_kept_for_the_next_request(connect: Connect) -> None:
    client = connect()
    for _ in range(5):
        client.send(post())
        got = client.read()
        assert got.status == 200
        assert got.headers.get(b"connection") is None


def test_heads_that_differ_in_more_than_the_length_are_distinguished(connect: Connect) -> None:
    client = connect()
    for number in (1, 1, 2, 2, 3):
        client.send(post(number=number))
        assert id_of(client.read()) == b"n%d" % number
    client.send(post(ROW + b" " * 11, number=3))
    assert client.read().status == 200
    client.send(post(path=b"/predict_batc", number=3))
    client.read()
    client.send(post(number=4))
    assert id_of(client.read()) == b"n4"


def test_pipelined_requests_are_answered_in_order(connect: Connect) -> None:
    client = connect()
    client.send(b"".join(post(number=n) for n in range(200)))
    assert [id_of(client.read()) for _ in range(200)] == [b"n%d" % n for n in range(200)]


def test_pipelined_requests_with_the_same_head_are_all_answered(connect: Connect) -> None:
    client = connect()
    client.send(post())
    client.read()
    client.send(post() * 300)
    assert [client.read().status for _ in range(300)] == [200] * 300


def test_pipelining_keeps_the_order_across_fast_protocol_and_asgi_app(connect: Connect) -> None:
    client = connect()
    get = b"GET /health HTTP/1.1\r\nHost: test\r\nX-Request-ID: n%d\r\n\r\n"
    query = b"POST /predict?a=1 HTTP/1.1\r\nHost: test\r\nX-Request-ID: n%d\r\n"
    chunked = query + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(ROW, 7)
    kinds = [lambda n: post(number=n), lambda n: get % n, lambda n: chunked % n]
    order = [0, 1, 0, 0, 2, 0, 1, 1, 0, 2, 2, 0, 0, 0, 1]
    client.send(b"".join(kinds[kind](n) for n, kind in enumerate(order)))
    assert [id_of(client.read()) for _ in order] == [b"n%d" % n for n in range(len(order))]
    client.send(post(number=99))
    assert id_of(client.read()) == b"n99"


def test_a_request_may_arrive_byte_by_byte(connect: Connect) -> None:
    client = connect()
    for number in (1, 1, 2):
        for byte in post(number=number):
            client.send(bytes([byte]))
        assert id_of(client.read()) == b"n%d" % number


@pytest.mark.parametrize("cut", [1, 30, 60, 120, 130, -5, -1])
def test_a_known_head_may_arrive_in_two_parts(connect: Connect, cut: int) -> None:
    client = connect()
    client.send(post(number=7))
    client.read()
    for number in (7, 8, 7):
        request = post(number=number)
        client.send(request[:cut])
        wait_read(client.socket)
        client.send(request[cut:] + request)
        assert [id_of(client.read()) for _ in range(2)] == [b"n%d" % number] * 2


def chunks(body: bytes, size: int) -> bytes:
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


def test_a_chunked_body_is_read(connect: Connect) -> None:
    client = connect()
    head = (
        b"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    for size in (1, 7, 1000):
        client.send(head + chunks(ROW, size))
        assert client.read().status == 200
    client.send(post(number=1))
    assert id_of(client.read()) == b"n1"


def test_expect_is_answered_before_the_body_arrives(connect: Connect) -> None:
    client = connect()
    for _ in range(2):
        head, _, body = post(ROW, b"Expect: 100-continue").partition(b"\r\n\r\n")
        client.send(head + b"\r\n\r\n")
        assert client.read().status == 100
        client.send(body)
        assert client.read().status == 200


def test_http_1_0_is_answered_and_closed(connect: Connect) -> None:
    client = connect()
    client.send(post().replace(b"HTTP/1.1", b"HTTP/1.0"))
    got = client.read()
    assert (got.status, got.headers[b"connection"]) == (200, b"close")
    assert client.closed()


def test_connection_close_is_honoured(connect: Connect) -> None:
    client = connect()
    client.send(post())
    client.read()
    client.send(post(ROW, b"Connection: close"))
    got = client.read()
    assert (got.status, got.headers[b"connection"]) == (200, b"close")
    assert client.closed()


def test_head_has_no_body(connect: Connect) -> None:
    client = connect()
    client.send(b"HEAD /health HTTP/1.1\r\nHost: test\r\n\r\n")
    got = client.read(head=True)
    assert (got.status, got.body) == (200, b"")
    assert int(got.headers[b"content-length"]) > 0
    client.send(post(number=5))
    assert id_of(client.read()) == b"n5"


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"GET\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Length: x\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Length: -5\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_data_that_is_not_http_gets_400_and_is_closed(connect: Connect, rubbish: bytes) -> None:
    client = connect()
    client.send(rubbish)
    assert client.read().status == 400
    assert client.closed()


@pytest.mark.parametrize("before", [1, 3])
def test_a_refusal_waits_for_the_responses_before_it(before: int, tmp_path: Path) -> None:
    get = b"GET /health HTTP/1.1\r\nHost: test\r\nX-Request-ID: n%d\r\n\r\n"
    broken = (
        b"POST /predict?a=1 HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\n12345\r\nno length\r\n"
    )
    with serving("tidemill", tmp_path) as running:
        client = Client(running)
        client.send(b"".join(get % n for n in range(before)) + broken)
        found = [client.read() for _ in range(before + 1)]
        assert [id_of(got) for got in found[:-1]] == [b"n%d" % n for n in range(before)]
        assert [got.status for got in found] == [200] * before + [400]
        assert client.closed()
        client.socket.close()


def test_a_known_head_with_an_invalid_length_is_refused(connect: Connect) -> None:
    for digits in (b"", b"x", b"1x", b"-1", b"+1"):
        client = connect()
        good = post()
        client.send(good)
        client.read()
        client.send(good.replace(b"Length: %d" % len(ROW), b"Length: " + digits))
        try:
            assert client.read().status == 400
        except EOFError as error:
            raise AssertionError(f"{digits!r} was not answered") from error


def test_a_client_that_disconnects_mid_request_affects_no_other(connect: Connect) -> None:
    for cut in (10, 100, len(post()) - 3):
        client = connect()
        client.send(post())
        client.read()
        client.send(post()[:cut])
        client.socket.close()
    client = connect()
    client.send(post())
    assert client.read().status == 200


def test_an_idle_connection_is_closed_after_the_timeout(impatient: Running) -> None:
    client = Client(impatient)
    client.send(post())
    client.read()
    client.send(post())
    started = time.monotonic()  # the server answers, and begins to wait, some time after this
    client.read()
    assert client.closed()
    assert time.monotonic() - started > KEEP_ALIVE - 0.1
    client.socket.close()


def test_a_busy_connection_is_not_closed_by_the_idle_timeout(impatient: Running) -> None:
    wait_until(lambda: stays_open(impatient), "a connection that the test itself kept busy")


def stays_open(server: Running) -> bool:
    """Send requests for twice the idle timeout; False if this machine paused meanwhile."""
    client = Client(server)
    opened = last = time.monotonic()
    try:
        while (now := time.monotonic()) < opened + 2 * KEEP_ALIVE:
            if now > last + KEEP_ALIVE / 2:
                return False
            last = now
            client.send(post())
            assert client.read().status == 200
            time.sleep(KEEP_ALIVE / 20)
        return True
    except (EOFError, ConnectionError):
        if time.monotonic() > last + KEEP_ALIVE / 2:
            return False
        raise
    finally:
        client.socket.close()


def test_requests_are_not_read_while_the_client_does_not_read_responses(connect: Connect) -> None:
    client = connect()
    client.socket.settimeout(1.0)
    request = post() * 50
    with pytest.raises(TimeoutError):
        client.socket.sendall(request * 5000)
    other = connect()
    other.send(post())
    assert other.read().status == 200


def test_a_slow_reader_gets_every_response(connect: Connect) -> None:
    client = connect()
    count = 3000
    sender = threading.Thread(
        target=lambda: [client.send(post(number=n)) for n in range(count)], daemon=True
    )
    sender.start()
    time.sleep(0.2)
    assert [id_of(client.read()) for _ in range(count)] == [b"n%d" % n for n in range(count)]
    sender.join(300)


def test_a_shutdown_answers_open_requests_and_closes_idle_connections(mortal: Running) -> None:
    idle, busy = Client(mortal), Client(mortal)
    for client in (idle, busy):
        client.send(post())
        client.read()
    head, _, body = post(number=1).partition(b"\r\n\r\n")
    busy.send(head + b"\r\n\r\n" + body[:3])
    wait_read(busy.socket)
    mortal.server.should_exit = True
    assert idle.closed()
    busy.send(body[3:])
    got = busy.read()
    assert (got.status, got.headers.get(b"connection")) == (200, b"close")
    assert busy.closed()
    idle.socket.close()
    busy.socket.close()
    mortal.thread.join(300)
    assert not mortal.thread.is_alive()
    with pytest.raises(OSError, match=r"refused|reset"):
        mortal.connect()


def accepts(server: Running) -> bool:
    try:
        server.connect().close()
    except OSError:
        return False
    return True


def test_a_known_head_interrupted_by_a_shutdown_is_answered(mortal: Running) -> None:
    client = Client(mortal)
    client.send(post())
    client.read()
    request = post()
    client.send(request[:-4])
    wait_read(client.socket)
    mortal.server.should_exit = True
    wait_until(lambda: not accepts(mortal), "the server to stop listening")
    client.send(request[-4:])
    got = client.read()
    assert (got.status, got.headers.get(b"connection")) == (200, b"close")
    assert client.closed()
    client.socket.close()


def test_an_endless_head_is_refused(server: Running, connect: Connect) -> None:
    if not isinstance(server, Tidemill):
        pytest.skip("uvicorn reads on for ever")
    client = connect()
    client.send(post())
    client.read()
    client.send(b"POST /predict HTTP/1.1\r\nHost: test\r\n")
    with contextlib.suppress(ConnectionError):
        for number in range(2000):
            client.send(b"X-Filler-%d: %b\r\n" % (number, b"x" * 100))
    with contextlib.suppress(ConnectionError):
        assert client.read().status == 431
    assert client.closed()
    again = connect()
    again.send(post(ROW, b"X-Long: " + b"x" * 30_000))
    assert again.read().status == 200


@pytest.mark.parametrize("value", [b"keep-alive", b"Keep-Alive", b"keep-alive, foo"])
def test_asking_to_keep_the_connection_keeps_it(connect: Connect, value: bytes) -> None:
    client = connect()
    for number in (1, 1, 2):
        client.send(post(ROW, b"Connection: " + value, number=number))
        assert id_of(client.read()) == b"n%d" % number


def test_leading_line_ends_are_skipped(connect: Connect) -> None:
    client = connect()
    client.send(b"\r\n\r\n" + post(number=1))
    assert id_of(client.read()) == b"n1"
    client.send(b"\r\n" + post(number=2))
    assert id_of(client.read()) == b"n2"


def test_a_thousand_connections_come_and_go(server: Running, connect: Connect) -> None:
    for _ in range(20):
        clients = [connect() for _ in range(50)]
        for client in clients:
            client.send(post())
        assert all(client.read().status == 200 for client in clients)
        for client in clients:
            client.socket.close()
    wait_until(lambda: len(server.server.server_state.connections) == 0, "connections to go")


KINDS = ("plain", "other", "get", "query", "chunked", "bad")


def one_of(kind: str, number: int) -> bytes:
    """A request of one kind, with its number as the request id."""
    line = b"X-Request-ID: n%d" % number
    if kind == "get":
        return b"GET /health HTTP/1.1\r\nHost: test\r\n%b\r\n\r\n" % line
    if kind == "chunked":
        head = b"POST /predict HTTP/1.1\r\nHost: test\r\n%b\r\nTransfer-Encoding: chunked\r\n\r\n"
        return head % line + chunks(ROW, 11)
    if kind == "bad":
        return post(b"{", line)
    path = {"query": b"/predict?a=b", "other": b"/predict_batch"}.get(kind, b"/predict")
    body = b'{"instances": [%b]}' % ROW if kind == "other" else ROW
    return post(body, line, path=path)


@settings(max_examples=120)
@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 3)), min_size=1, max_size=12),
    st.lists(st.integers(1, 400), min_size=1, max_size=30),
)
def test_any_requests_split_anywhere_are_answered_in_order(
    server: Running, order: list[tuple[str, int]], cuts: list[int]
) -> None:
    stream = b"".join(one_of(kind, number) for kind, number in order)
    client = Client(server)
    try:
        sizes = itertools.cycle(cuts)
        while stream:
            size = next(sizes)
            client.send(stream[:size])
            stream = stream[size:]
        assert [id_of(client.read()) for _ in order] == [b"n%d" % n for _, n in order]
    finally:
        client.socket.close()

"""A webhook that answers without end, slowly, elsewhere or not at all does not hold the sender."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tidemill.stores.database.database import Database
from tidemill.stores.monitoring.webhook_outbox import WebhookSender, WebhookTarget, enqueue_event

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Webhook:
    """A server that sends a start, then a piece again and again until it is hung up on."""

    def __init__(self, start: bytes, piece: bytes) -> None:
        self._start, self._piece = start, piece
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self.connections = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        with suppress(OSError):
            socket.create_connection(self._listener.getsockname()).close()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, suppress(OSError):
                if self._ending.is_set():
                    return
                self.connections += 1
                connection.recv(65536)
                connection.sendall(self._start)
                while self._piece and not self._ending.wait(0.01):
                    connection.sendall(self._piece)
                while not self._piece and self._start == b"" and not self._ending.wait(0.01):
                    if connection.recv(1) == b"":
                        break


@contextmanager
def webhook(start: bytes, piece: bytes) -> Iterator[Webhook]:
    server = Webhook(start, piece)
    try:
        yield server
    finally:
        server.close()


@pytest.mark.parametrize(
    ("start", "piece", "delivered"),
    [
        (HEAD, b"10000\r\n" + b"x" * 65536 + b"\r\n", 1),
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x", 0),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", 0),
        (b"", b"", 0),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", b"", 0),
        (b"SSH-2.0-OpenSSH_9\r\n", b"x", 0),
    ],
    ids=["endless body", "slow head", "endless interim answers", "silent", "redirect", "not HTTP"],
)
def test_an_answer_is_read_to_its_status_alone(
    database: Database, start: bytes, piece: bytes, delivered: int
) -> None:
    with database.write() as connection:
        enqueue_event(connection, "trigger.opened", {"id": "1"})
    with webhook(start, piece) as server:
        sender = WebhookSender(database, WebhookTarget(server.url), seconds=1.0)
        assert sender.deliver() == delivered
        assert server.connections == 1

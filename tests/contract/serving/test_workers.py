"""Several processes behind one port: restarts, shutdown, and start-up errors."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.journal_records import read_folder

from .conftest import FLOATS, make_shelf, wait_read, wait_until

BODY = {"features": [1.0] * len(FLOATS)}
Begin = Callable[..., "Serving"]


class Serving:
    """`python -m tidemill.serving` as a process of its own."""

    def __init__(self, home: Path, *arguments: str, **environment: str) -> None:
        self.log = home.parent / "serving.log"
        self.kept: list[http.client.HTTPConnection] = []
        command = [sys.executable, "-m", "tidemill.serving", "--home", str(home), "--port", "0"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *arguments], stdout=log, stderr=log, env={**os.environ, **environment}
            )
        self.port = int(wait_until(self._port, "the server to start"))

    def _port(self) -> str | None:
        assert self.process.poll() is None, self.log.read_text()
        _, _, url = self.log.read_text().partition("serving on http://127.0.0.1:")
        return url.split()[0] if url else None

    def ask(self, path: str, body: Any = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            data = None if body is None else msgspec.json.encode(body)
            connection.request("GET" if body is None else "POST", path, data)
            got = connection.getresponse()
            return got.status, got.read()
        finally:
            connection.close()

    def connect(self) -> http.client.HTTPConnection:
        self.kept.append(http.client.HTTPConnection("127.0.0.1", self.port, timeout=300))
        return self.kept[-1]

    def total(self, name: str) -> float:
        text = self.ask("/metrics")[1].decode()
        samples = [s for f in text_string_to_metric_families(text) for s in f.samples]
        return sum(s.value for s in samples if s.name == name)

    def children(self) -> list[int]:
        folder = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in folder.read_text().split()]

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(300)


@pytest.fixture
def begin(home: Path) -> Iterator[Begin]:
    made: list[Serving] = []
    make_shelf(home / "shelf", ("classifier",))

    def start(*arguments: str, **environment: str) -> Serving:
        made.append(Serving(home, "--no-auth", *arguments, **environment))
        return made[-1]

    yield start
    for serving in made:
        for connection in serving.kept:
            connection.close()
        if serving.process.poll() is None:
            serving.process.kill()
            serving.process.wait()


def test_one_process_serves_and_exits_with_zero(begin: Begin, home: Path) -> None:
    serving = begin()
    status, body = serving.ask("/predict", BODY)
    assert status == 200
    assert serving.end() == 0
    assert [r.id for r in read_folder(home / "journal")] == [msgspec.json.decode(body)["id"]]


def test_workers_share_the_port_and_their_metrics_add_up(begin: Begin, home: Path) -> None:
    serving = begin("--workers", "2")
    assert len(serving.children()) == 2
    statuses = []

    def both_answered() -> bool:
        statuses.append(serving.ask("/predict", BODY)[0])
        return {path.name.split("-")[1] for path in (home / "journal").iterdir()} == {"w1", "w2"}

    wait_until(both_answered, "both to answer")
    assert set(statuses) == {200}
    answered = len(statuses)
    assert serving.total("model_predictions_total") == answered
    wait_until(lambda: serving.total("tidemill_journal_records_total") == answered, "the journals")
    assert serving.total("tidemill_models") == 1


def test_workers_share_rate_limits(begin: Begin) -> None:
    serving = begin("--workers", "2", TIDEMILL_RATE_LIMIT="20/hour")
    statuses = [serving.ask("/predict", BODY)[0] for _ in range(30)]
    assert statuses.count(200) == 20
    assert statuses.count(429) == 10


def test_a_worker_that_dies_is_restarted_and_its_counts_are_kept(begin: Begin) -> None:
    serving = begin("--workers", "2")
    for _ in range(20):
        serving.ask("/predict", BODY)
    before = serving.children()
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: before[0] not in serving.children(), "the death")
    for _ in range(20):
        assert serving.ask("/predict", BODY)[0] == 200
    wait_until(lambda: len(serving.children()) == 2, "the replacement")
    assert serving.total("model_predictions_total") == 40
    assert serving.end() == 0


def test_workers_end_with_their_parent(begin: Begin) -> None:
    serving = begin("--workers", "2")
    children = serving.children()
    serving.process.kill()
    serving.process.wait()
    wait_until(lambda: not any(map(alive, children)), "the workers to end")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_background_server_ends_at_a_signal_that_its_shell_ignored(
    begin: Begin, number: int, workers: str
) -> None:
    ignored = (signal.SIGTERM, signal.SIGINT)
    before = {each: signal.signal(each, signal.SIG_IGN) for each in ignored}
    try:
        serving = begin("--workers", workers)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    serving.process.send_signal(number)
    assert serving.process.wait(300) == 0


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_shutdown_finishes_running_requests(begin: Begin, number: int) -> None:
    serving = begin("--workers", "2")
    connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=300)
    data = msgspec.json.encode(BODY)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(len(data)))
    connection.endheaders(data[:5])
    wait_read(connection.sock)
    serving.process.send_signal(number)
    time.sleep(0.3)
    connection.send(data[5:])
    assert connection.getresponse().status == 200
    connection.close()
    assert serving.process.wait(300) == 0


def test_a_taken_port_is_a_readable_error(begin: Begin, home: Path) -> None:
    serving = begin()
    command = [sys.executable, "-m", "tidemill.serving", "--port", str(serving.port)]
    for more in ([], ["--workers", "2"]):
        found = subprocess.run(
            [*command, *more, "--home", str(home)], capture_output=True, text=True, timeout=300
        )
        assert found.returncode == os.EX_CONFIG
        assert f"Port {serving.port} on 127.0.0.1 cannot be used" in found.stderr
        assert "--port" in found.stderr


def test_a_worker_that_cannot_start_stops_the_server_with_the_reason(home: Path) -> None:
    make_shelf(home / "shelf", ("classifier",))
    (home / "journal").write_text("in the way")
    command = [sys.executable, "-m", "tidemill.serving", "--home", str(home), "--port", "0"]
    for more in ([], ["--workers", "2"]):
        found = subprocess.run([*command, *more], capture_output=True, text=True, timeout=300)
        assert found.returncode == os.EX_CONFIG
        assert "journal folder" in found.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_draining_server_answers_and_closes_connections(begin: Begin, workers: str) -> None:
    """Two open connections: one to the fast protocol, one to the ASGI app."""
    serving = begin("--workers", workers, TIDEMILL_DRAIN="60")
    fast, plain = serving.connect(), serving.connect()
    for connection in (fast, plain):
        assert post(connection).status == 200
    serving.process.send_signal(signal.SIGTERM)
    wait_until(
        lambda: all(serving.ask(path)[0] == 503 for path in 10 * ["/ready", "/v2/health/ready"]),
        "every process to be unready",
        30,
    )
    wait_until(lambda: is_closing(post(fast)), "the fast protocol to close the connection", 30)
    wait_until(lambda: is_closing(health(plain)), "the ASGI app to close the connection", 30)
    assert serving.ask("/predict", BODY)[0] == 200


def test_a_drained_server_exits(begin: Begin) -> None:
    serving = begin(TIDEMILL_DRAIN="0.5")
    assert post(serving.connect()).status == 200
    assert serving.end() == 0


def is_closing(answer: http.client.HTTPResponse) -> bool:
    """Whether a successful answer ends its connection.

    New connections may all have reached one process: the other may begin to drain a moment later.
    """
    assert answer.status == 200
    assert answer.getheader("connection") in (None, "close")
    return answer.getheader("connection") == "close"


def health(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    connection.request("GET", "/health")
    answer = connection.getresponse()
    answer.read()
    return answer


def post(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    connection.request("POST", "/predict", msgspec.json.encode(BODY))
    answer = connection.getresponse()
    answer.read()
    return answer

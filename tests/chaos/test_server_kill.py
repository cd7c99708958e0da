"""A serving process is killed under load: every response a client received is in the journal."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.contract.serving.conftest import FLOATS, make_shelf
from tidemill.serving.journal.segments import read_segment, segments

pytestmark = pytest.mark.chaos
CLIENTS, RESPONSES = 8, 400


def serve(home: Path) -> tuple[subprocess.Popen[str], int]:
    """Start a data plane in its own process; return it and its port."""
    command = [sys.executable, "-m", "tidemill.serving", "--home", str(home), "--port", "0"]
    process = subprocess.Popen([*command, "--no-auth"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "serving on " in line:
            return process, int(line.rpartition(":")[2])
    raise AssertionError(f"the server ended with {process.wait()}")


def send_requests(port: int, received: list[str]) -> None:
    """Send requests until the connection breaks; collect the id of every complete response."""
    body = json.dumps({"features": [1.0] * len(FLOATS)})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        while True:
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == 200
            received.append(json.loads(content)["id"])
    except (OSError, http.client.HTTPException):
        return
    finally:
        connection.close()


def test_every_response_of_a_killed_server_is_in_its_journal(tmp_path: Path) -> None:
    make_shelf(tmp_path / "shelf", ("classifier",))
    process, port = serve(tmp_path)
    received: list[str] = []
    args = (port, received)
    clients = [threading.Thread(target=send_requests, args=args) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    deadline = time.monotonic() + 300
    while len(received) < RESPONSES:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    for client in clients:
        client.join(300)
    assert process.wait(300) == -signal.SIGKILL
    assert process.stderr is not None
    process.stderr.close()
    found = segments(tmp_path / "journal")
    recorded = [r.id for s in found for r in read_segment(s.path).records]
    assert len(set(received)) == len(received) >= RESPONSES
    assert set(received) <= set(recorded)

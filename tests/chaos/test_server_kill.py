"""A serving process is killed under load: every answer that a client got is in the journal."""

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
CLIENTS, ANSWERS = 8, 400


def serve(home: Path) -> tuple[subprocess.Popen[str], int]:
    """A data plane in a process of its own, and its port."""
    command = [sys.executable, "-m", "tidemill.serving", "--home", str(home), "--port", "0"]
    process = subprocess.Popen([*command, "--no-auth"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "serving on " in line:
            return process, int(line.rpartition(":")[2])
    raise AssertionError(f"it ended with {process.wait()}")


def ask(port: int, got: list[str]) -> None:
    """Ask until the connection breaks; keep the id of every answer that came whole."""
    body = json.dumps({"features": [1.0] * len(FLOATS)})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        while True:
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == 200
            got.append(json.loads(content)["id"])
    except (OSError, http.client.HTTPException):
        return
    finally:
        connection.close()


def test_every_answer_that_left_a_killed_server_is_in_its_journal(tmp_path: Path) -> None:
    make_shelf(tmp_path / "shelf", ("classifier",))
    process, port = serve(tmp_path)
    got: list[str] = []
    clients = [threading.Thread(target=ask, args=(port, got)) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    deadline = time.monotonic() + 300
    while len(got) < ANSWERS:
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
    assert len(set(got)) == len(got) >= ANSWERS
    assert set(got) <= set(recorded)

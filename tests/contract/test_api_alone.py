"""The control plane as a separate process, as its container runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tests.servers import free_port, wait_until


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def test_the_process_answers_logs_json_and_stops_at_a_signal(home: Path) -> None:
    port = free_port()
    out = home.parent / "out"
    environment = {"TIDEMILL_LOG_FORMAT": "json", "TIDEMILL_LOG_FILES": "off"}
    command = [sys.executable, "-m", "tidemill", "api", "--port", str(port), "--home", str(home)]
    with out.open("wb") as stdout:
        process = subprocess.Popen(command, stdout=stdout, env=os.environ | environment)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/ready"), "the API to be ready")
        assert httpx.post(f"http://127.0.0.1:{port}/train", json={}).status_code == 403
    finally:
        process.send_signal(signal.SIGTERM)
        ended = process.wait(300)
    assert ended in (0, -signal.SIGTERM)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert {line["process"] for line in lines} == {"api"}
    assert not (home / "logs").exists()

"""A running server: its process tree, its CPU time and its memory."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from benchmarks.serving.cores import pinned, take_precedence
from benchmarks.serving.peer import Installation, Peer

TICK = os.sysconf("SC_CLK_TCK")
START_LIMIT = 120.0  # seconds; ten times what the slowest peer takes
ANSWER_LIMIT = 10.0  # once it has started


@dataclass(frozen=True)
class Server:
    """A started server; `process` leads its own session, which identifies its children."""

    peer: Peer
    installation: Installation
    model: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def cpu_seconds(self) -> float:
        """Return the user and system time of the process tree, including children that ended."""
        ticks = 0
        for pid in members(self.process.pid):
            with contextlib.suppress(OSError):
                ticks += sum(int(n) for n in _stat(pid)[11:15])
        return ticks / TICK

    def memory(self) -> dict[str, int]:
        """Return the memory of the process tree in bytes, as PSS and RSS."""
        total = {"pss": 0, "rss": 0}
        for pid in members(self.process.pid):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    name, _, rest = line.partition(":")
                    if name.lower() in total:
                        total[name.lower()] += int(rest.split()[0]) * 1024
        return total

    def stop(self) -> None:
        """Stop the process tree with SIGTERM, then SIGKILL."""
        started = {pid: _start_time(pid) for pid in members(self.process.pid)}
        for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
            _signal(_alive(started), number)
            deadline = time.monotonic() + patience
            while _alive(started) and time.monotonic() < deadline:
                self.process.poll()
                time.sleep(0.02)
        self.process.wait()


def start(peer: Peer, installation: Installation, model: str, *, cores: set[int]) -> Server:
    """Start the peer's command for one model on a free port, pinned to `cores`."""
    port = free_port()
    log = installation.folder.parent / f"{model}.log"
    variables = {"OMP_NUM_THREADS": "1", **peer.environment(installation, model)}
    with log.open("wb") as output, pinned(cores):
        process = subprocess.Popen(
            peer.command(installation, model, port),
            cwd=installation.folder,
            env={**_inherited(), **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    if os.getpriority(os.PRIO_PROCESS, 0) < 0:
        take_precedence(process.pid)
    return Server(peer, installation, model, port, process, log)


def wait_answer(
    server: Server, path: str, body: bytes, headers: Mapping[str, str], patience: float
) -> Any:
    """Return the server's first 200 response to the request, within `patience` seconds.

    Raises:
        RuntimeError: The server exited or did not answer in time; the message ends with its log.
    """
    deadline = time.monotonic() + patience
    said = ""
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            status, answer, _ = post(server.port, path, body, headers)
            if status == 200:
                return json.loads(answer)
            said = f"{status} {answer[:500]!r}"
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.01)
    raise RuntimeError(f"no good answer; {said} {server.log.read_text(errors='replace')[-1500:]}")


def post(
    port: int, path: str, body: bytes, headers: Mapping[str, str]
) -> tuple[int, bytes, Message]:
    """Send a POST on a new connection; return status, body and headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def get(port: int, path: str) -> bytes:
    """Return the body of a GET."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        found: bytes = answer.read()
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def members(leader: int) -> list[int]:
    """Return the leader, all processes of its session, and their descendants."""
    processes = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                _, parent, _, session, *_ = _stat(int(entry.name))
                processes[int(entry.name)] = (int(parent), int(session))
    found = {pid for pid, (_, session) in processes.items() if session == leader}
    while more := {pid for pid, (parent, _) in processes.items() if parent in found} - found:
        found |= more
    return sorted(found)


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name (may contain spaces); 0 is the state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _alive(started: Mapping[int, str]) -> list[int]:
    """Return the processes that still run and whose pid has not been reused."""
    return [pid for pid, born in started.items() if born and born == _start_time(pid)]


def _start_time(pid: int) -> str:
    """Return the start time of the process in ticks, which tells reused pids apart.

    Empty for a process that is gone or a zombie.
    """
    try:
        state, *rest = _stat(pid)
    except OSError:
        return ""
    return "" if state == "Z" else rest[18]


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _inherited() -> dict[str, str]:
    """Return our environment without variables that would affect a peer's packages or settings."""
    unwanted = ("PYTHON", "TIDEMILL_", "MLFLOW_", "BENTOML_", "MLSERVER_", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}

"""One running server: its whole tree of processes, the CPU it used and the memory it holds."""

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
START_LIMIT = 120.0  # seconds: the slowest peer takes a tenth of it
ANSWER_LIMIT = 10.0  # once it has started


@dataclass(frozen=True)
class Server:
    """A started server; `process` leads a session of its own, which finds all that it started."""

    peer: Peer
    installation: Installation
    model: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def cpu_seconds(self) -> float:
        """User and system time of every process of the tree, and of those it has outlived."""
        ticks = 0
        for pid in members(self.process.pid):
            with contextlib.suppress(OSError):
                ticks += sum(int(n) for n in _stat(pid)[11:15])
        return ticks / TICK

    def memory(self) -> dict[str, int]:
        """Bytes held by the tree: its share (PSS) and, counting shared pages in full, RSS."""
        total = {"pss": 0, "rss": 0}
        for pid in members(self.process.pid):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    name, _, rest = line.partition(":")
                    if name.lower() in total:
                        total[name.lower()] += int(rest.split()[0]) * 1024
        return total

    def stop(self) -> None:
        """End the tree: politely, then for certain."""
        started = {pid: _start_time(pid) for pid in members(self.process.pid)}
        for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
            _signal(_alive(started), number)
            deadline = time.monotonic() + patience
            while _alive(started) and time.monotonic() < deadline:
                self.process.poll()
                time.sleep(0.02)
        self.process.wait()


def start(peer: Peer, installation: Installation, model: str, *, cores: set[int]) -> Server:
    """Start the peer's command for one model on a free port, on those cores."""
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
    """The server's first good answer to that request, within `patience` seconds.

    Raises:
        RuntimeError: It ended, or gave none in time; the message has the end of its log.
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
    """One POST on a connection of its own: status, body and headers of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def get(port: int, path: str) -> bytes:
    """The body of one GET."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        found: bytes = answer.read()
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def members(leader: int) -> list[int]:
    """The leader, its whole session (whoever adopted them) and all that these processes."""
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
    """The fields of /proc/PID/stat after the name (which may hold spaces): state is number 0."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _alive(started: Mapping[int, str]) -> list[int]:
    """Those that still run and are who they were."""
    return [pid for pid, born in started.items() if born and born == _start_time(pid)]


def _start_time(pid: int) -> str:
    """When the process started, in ticks: tells it from another that got its number later.

    Empty for one that is gone or waits to be reaped.
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
    """Our environment, less what would leak our own packages or settings into a peer."""
    unwanted = ("PYTHON", "TIDEMILL_", "MLFLOW_", "BENTOML_", "MLSERVER_", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}

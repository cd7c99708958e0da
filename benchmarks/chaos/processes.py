"""`tidemill up` as a user starts it, and its processes by name."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tidemill.settings import Settings

START_SECONDS = 300.0
STOP_SECONDS = 120.0
RESTART_SECONDS = 15.0
PORTS = (20_000, 32_000)  # below those that Linux gives to clients
#: What the command line of each process contains, the more specific ones first.
NAMES = {
    "-m tidemill.api.one_port": "api",
    "-m tidemill.worker.watch": "watch",
    "-m tidemill.worker": "worker",
    "-m tidemill.loop.sync.pyfunc_supervisor": "pyfunc",
    "-m tidemill.loop.sync": "sync",
    "-m tidemill.loop.ingest": "ingest",
    "-m mlflow server": "mlflow",
    "postgres -D": "postgres",
    "redis-server": "redis",
}


def free_ports(count: int) -> list[int]:
    """Consecutive free ports on loopback, none of which the kernel gives to a client meanwhile."""
    while True:
        start = random.randrange(*PORTS)
        with contextlib.ExitStack() as opened, contextlib.suppress(OSError):
            for port in range(start, start + count):
                opened.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return list(range(start, start + count))


class Up:
    """A `tidemill up` on free ports; every process that it starts ends with `close`.

    Args:
        home: A folder that other users may enter, because PostgreSQL does not run as root.
        scaled: Two APIs and two workers on PostgreSQL and Redis of its own.
        env: Added to the environment.
    """

    def __init__(self, home: Path, *, scaled: bool, env: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.scaled = scaled
        *self.ports, self.mlflow_port = free_ports(3 if scaled else 2)
        self.seen: set[int] = set()
        self._more = env or {}
        self.starts = 0
        self._start()

    def _start(self) -> None:
        command = [sys.executable, "-m", "tidemill", "up", "--home", str(self.home)]
        command += ["--port", str(self.ports[0]), "--mlflow-port", str(self.mlflow_port)]
        command += ["--first", "gallery:iris"]
        command += ["--scaled", "--apis", "2", "--workers", "2"] if self.scaled else []
        foreign = ("MLFLOW_", "TIDEMILL_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        # Whatever cannot be recorded must not be acknowledged, and kills come faster than failures.
        env |= {"TIDEMILL_JOURNAL_WHEN_FULL": "refuse", "TIDEMILL_JOB_MAX_FAILURES": "100"}
        env |= {"TIDEMILL_PROJECT": "gallery:iris", "TIDEMILL_WORKER_LOST_AFTER": "15"}
        self.env = env | dict(self._more)
        self.starts += 1
        with (self.home.parent / "up.txt").open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.env,
                start_new_session=True,
            )

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    @property
    def key(self) -> str:
        return (self.home / "key").read_text().strip()

    def wait_until_ready(self) -> None:
        """Wait until every API serves a model.

        Raises:
            RuntimeError: They do not within `START_SECONDS`.
        """
        deadline = time.monotonic() + START_SECONDS
        while not all(_is_ready(url) for url in self.urls):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"no API is ready:\n{self.output()[-3000:]}")
            time.sleep(0.1)
        self.processes()

    def output(self) -> str:
        """What all starts have printed."""
        return (self.home.parent / "up.txt").read_text(errors="replace")

    def processes(self) -> dict[str, list[int]]:
        """The ids of its processes by name; `job` are the processes of running jobs."""
        table = process_table()
        found: dict[str, list[int]] = {}
        for pid in descendants(self.process.pid, table):
            self.seen.add(pid)
            name = _name(pid)
            parent = _name(table[pid]) if pid in table else None
            if name == parent:  # a process of its own, of a server or a worker
                name = {"worker": "job"}.get(str(name), f"{name}-child")
            if name is not None:
                found.setdefault(name, []).append(pid)
        return found

    def kill(self) -> None:
        """Kill the supervisor itself; its programs end with it."""
        self.processes()
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start again in the same home, as a service manager does.

        The programs of the killed `up` end soon, except for a worker that still has to write the
        end of a job: it waits for the database, which the new `up` starts.
        """
        deadline = time.monotonic() + RESTART_SECONDS
        while self.left() and time.monotonic() < deadline:
            time.sleep(0.1)
        self._start()

    def ensure_running(self) -> bool:
        """Start again if it has given up; whether it had."""
        if self.process.poll() is None:
            return False
        self.restart()
        return True

    def left(self) -> list[int]:
        """The processes that it started and that are still there."""
        return [pid for pid in self.seen if _is_alive(pid) and _name(pid) is not None]

    def settings(self) -> Settings:
        """Settings for the same home and servers, as for another terminal."""
        names = self.home / "scaled.env"
        values = {"home": self.home, "project": "gallery:iris"}
        values |= {"database_url": self.env.get("TIDEMILL_DATABASE_URL")}
        if self.scaled:
            lines = (line.partition("=") for line in names.read_text().splitlines())
            told = {name: value.strip("'") for name, _, value in lines}
            values |= {
                "database_url": told["TIDEMILL_DATABASE_URL"],
                "tracking_uri": told["MLFLOW_TRACKING_URI"],
                "broker_url": told["TIDEMILL_BROKER_URL"],
            }
        return Settings(**values)

    def close(self) -> list[int]:
        """Stop everything; return the processes that outlived it, which are then killed."""
        self.processes()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        deadline = time.monotonic() + 10
        while self.left() and time.monotonic() < deadline:
            time.sleep(0.1)
        left = self.left()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left


def process_table() -> dict[int, int]:
    """The parent of each process."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
    return parents


def descendants(pid: int, table: dict[int, int]) -> set[int]:
    """All processes below one."""
    found: set[int] = set()
    new = {pid}
    while new:
        new = {child for child, parent in table.items() if parent in new} - found
        found |= new
    return found


def _name(pid: int) -> str | None:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return None
    return next((name for part, name in NAMES.items() if part in command), None)


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False

"""The faults that can be injected into a running `tidemill up`, by name."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

from benchmarks.chaos.processes import Up

HOLD_SECONDS = 5.0
CONNECT_SECONDS = 120.0
KILLS = ("api", "worker", "job", "sync", "ingest", "watch", "mlflow", "pyfunc")
SERVERS = ("postgres", "redis")


class Faults:
    """Injects faults into one system; `close` ends those that last."""

    def __init__(self, up: Up, drawn: random.Random) -> None:
        self._up, self._drawn, self._stop = up, drawn, threading.Event()
        self._beside_now: list[threading.Thread] = []

    def by_name(self) -> dict[str, Callable[[], bool]]:
        """Every fault; each returns whether there was something to break."""
        kills = (*KILLS, *SERVERS) if self._up.scaled else KILLS
        found: dict[str, Callable[[], bool]] = {
            f"kill {name}": lambda name=name: self._kill(name)  # type: ignore[misc]
            for name in kills
        }
        found["kill up"] = self._kill_up
        found["descriptors exhausted"] = lambda: self._limit("api", resource.RLIMIT_NOFILE, 0)
        for name in ("api", "ingest"):
            found[f"disk full for {name}"] = lambda name=name: self._limit(  # type: ignore[misc]
                name, resource.RLIMIT_FSIZE, 64
            )
        if shutil.which("faketime"):
            for module in ("ingest", "worker"):
                found[f"clock set back ({module})"] = lambda module=module: (  # type: ignore[misc]
                    self._beside(module)
                )
        return found

    def delete_mlflow_database(self) -> bool:
        """Delete the database behind MLflow, as an operator could by mistake."""
        if not self._up.scaled:
            for path in self._up.home.glob("mlflow.db*"):
                path.unlink(missing_ok=True)
            return True
        url = make_url(self._up.settings().database_uri)
        plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
        with _connect(plain) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{url.database}_mlflow" WITH (FORCE)')
        return True

    def _kill(self, name: str) -> bool:
        found = self._up.processes().get(name)
        if not found:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._drawn.choice(found), signal.SIGKILL)
        return True

    def _kill_up(self) -> bool:
        self._up.kill()
        self._up.restart()
        return True

    def _limit(self, name: str, what: int, value: int) -> bool:
        """Lower a limit of one process for some seconds, below what it already uses."""
        found = self._up.processes().get(name)
        if not found:
            return False
        with contextlib.suppress(ProcessLookupError):
            pid = self._drawn.choice(found)
            soft, hard = resource.prlimit(pid, what)
            resource.prlimit(pid, what, (value, hard))
            self._stop.wait(HOLD_SECONDS)
            resource.prlimit(pid, what, (soft, hard))
        return True

    def _beside(self, module: str) -> bool:
        """Run another such process meanwhile, whose clock is an hour behind."""
        name = {"ingest": "tidemill.loop.ingest", "worker": "tidemill.worker"}[module]

        def run() -> None:
            with _process_with_late_clock(self._up, name):
                self._stop.wait(4 * HOLD_SECONDS)

        thread = threading.Thread(target=run)
        thread.start()
        self._beside_now.append(thread)
        return True

    def close(self) -> None:
        """End what is still running beside the system."""
        self._stop.set()
        for thread in self._beside_now:
            thread.join()


def _connect(url: str) -> psycopg.Connection[Any]:
    """Connect as soon as the server accepts it, because a fault before may have stopped it."""
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            return psycopg.connect(url, autocommit=True)
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


@contextlib.contextmanager
def _process_with_late_clock(up: Up, module: str) -> Iterator[None]:
    settings = up.settings()
    env = {**up.env, "TIDEMILL_HOME": str(up.home), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    env["MLFLOW_TRACKING_URI"] = settings.mlflow_uri
    if settings.database_url:
        env["TIDEMILL_DATABASE_URL"] = settings.database_url
        env["TIDEMILL_BROKER_URL"] = str(settings.broker_url)
    output = Path(up.home.parent / "late-clock.txt")
    with output.open("ab") as log:
        process = subprocess.Popen(
            ["faketime", "-f", "-1h", sys.executable, "-m", module],
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

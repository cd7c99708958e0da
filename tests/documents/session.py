"""A shell session in a temporary folder that runs a page's commands one after another."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import free_port

PATIENCE = 600.0
STAYS = re.compile(r"^(make up|tidemill (up|serve|api))\b")
UP = "Tidemill is up."
PORT = re.compile(r"(?<=:)\d{4}\b|(?<=port )\d{4}\b|(?<=PORT=)\d{4}\b")


@dataclass
class Session:
    """A session whose commands share the working folder and environment variables.

    A page's ports are mapped to free ports, and mapped back in the output.
    """

    folder: Path
    ports: dict[str, str] = field(default_factory=dict)
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    stands_for: dict[str, str] = field(default_factory=dict)

    def run(self, command: str) -> tuple[int, str]:
        """Run a command to completion; a server keeps running once it has started."""
        script = self.folder / ".script"
        state, place = self.folder / ".state", self.folder / ".place"
        script.write_text(
            f'[ -f {state} ] && . {state}\n[ -f {place} ] && cd "$(cat {place})"\n'
            f"trap 'pwd >{place}; export -p >{state}' EXIT\nset -aeo pipefail\n"
            f"{self._local(command)}\n"
        )
        if STAYS.match(command):
            return 0, self._start(script)
        done = subprocess.run(
            ["bash", str(script)],
            cwd=self.folder / "work",
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
        return done.returncode, self._named(done.stdout.decode())

    def stop(self) -> None:
        """Stop the servers as Ctrl-C does, by signalling the process group."""
        for server in self.servers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGINT)
        for server in self.servers:
            server.wait(PATIENCE)
        self.servers.clear()

    def write(self, name: str, text: str) -> None:
        """Write a file into the working folder of the last command."""
        self.path(name).write_text(PORT.sub(lambda match: self._port(match[0]), text))

    def path(self, name: str) -> Path:
        """Return the path of a file in the working folder of the last command."""
        place = self.folder / ".place"
        here = Path(place.read_text().strip()) if place.exists() else self.folder / "work"
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        return here / name

    @property
    def environment(self) -> dict[str, str]:
        programs = str(Path(sys.executable).parent)
        return {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "COLUMNS": "98",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PYTHONWARNINGS": "ignore",
        }

    def _start(self, script: Path) -> str:
        log = self.folder / f"server-{len(self.servers)}.log"
        with log.open("wb") as out:
            server = subprocess.Popen(
                ["bash", str(script)],
                cwd=self.folder / "work",
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.servers.append(server)
        self._wait(lambda: UP in log.read_text() or server.poll() is not None, "a server", log)
        assert server.poll() is None, f"the server exited:\n{log.read_text()}"
        # The example request follows the addresses and ends with a blank line.
        self._wait(lambda: log.read_text().endswith("\n\n"), "its start-up message", log)
        return self._named(log.read_text())

    def _wait(self, true: Callable[[], bool], what: str, log: Path) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < deadline, f"timed out waiting for {what}:\n{log.read_text()}"
            time.sleep(0.05)

    def _local(self, command: str) -> str:
        if match := STAYS.match(command):
            command = f"exec {self._with_ports(command, match[1])}"
        for shown, real in self.stands_for.items():
            command = command.replace(shown, real)
        return PORT.sub(lambda match: self._port(match[0]), command)

    def _with_ports(self, command: str, program: str) -> str:
        if program == "make up":
            return command if "PORT=" in command else f"{command} PORT=8000 MLFLOW_PORT=5000"
        if "--port" not in command:
            command += " --port 8000"
        if program == "tidemill up" and "--mlflow-port" not in command:
            command += " --mlflow-port 5000"
        return command

    def _port(self, number: str) -> str:
        # Ports that the page does not serve on belong to other services: PostgreSQL, Redis.
        if any(number in real for real in self.stands_for.values()):
            return number
        return self.ports.setdefault(number, str(free_port()))

    def _named(self, output: str) -> str:
        for number, port in self.ports.items():
            output = re.sub(rf"(?<=:){port}\b", number, output)
        return output

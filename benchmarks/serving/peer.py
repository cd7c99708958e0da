"""What the benchmark has to know about a server to run it: a table that each peer fills in."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
APPS = Path(__file__).parent / "apps"
Rows = list[list[float]]


@dataclass(frozen=True)
class Installation:
    """Where a peer lives: its interpreter, its folder of prepared models, and our interpreter."""

    python: Path
    folder: Path
    project_python: Path

    def script(self, name: str) -> str:
        """An executable of the peer's environment."""
        return str(self.python.parent / name)

    def model(self, name: str) -> str:
        return str(self.folder / f"{name}.joblib")


def send_rows(rows: Rows, model: str) -> Any:
    """The plainest request: {"rows": [[...], ...]}."""
    return {"rows": rows}


def read_predictions(answer: Any) -> list[int]:
    """The plainest answer: {"predictions": [...]}."""
    return [int(label) for label in answer["predictions"]]


@dataclass(frozen=True)
class Endpoint:
    """One way of asking a server: where, with what body, and where the labels are in its answer."""

    name: str = ""
    title: str = ""
    path: Callable[[str], str] = lambda model: "/predict"
    encode: Callable[[Rows, str], Any] = send_rows
    decode: Callable[[Any], list[int]] = read_predictions
    headers: Callable[[Installation], Mapping[str, str]] = lambda installation: {}

    def body(self, rows: Rows, model: str) -> bytes:
        return json.dumps(self.encode(rows, model), separators=(",", ":")).encode()


def train_here(installation: Installation) -> None:
    """Fit both models under the peer's own interpreter and keep them as joblib files."""
    run_module(installation.python, "benchmarks.serving.train", installation.folder)


@dataclass(frozen=True)
class Peer:
    """A server to measure.

    Args:
        name: Names it on the command line and in the results.
        title: How the tables call it.
        packages: What its environment holds, as pip requirements.
        command: The command line that serves one model on a port of 127.0.0.1.
        forms: The ways to ask it; the first one stands for the server where one figure is wanted.
        prepare: Makes what the command needs in the place's folder.
        show: The packages whose versions belong in the report.
        environment: Variables that the server is started with.
        tidy: Clears away what the server wrote to disk, between measurements.
        prove: Raises RuntimeError when the running server lacks what the report says it has on.
        home: The peer whose environment and models it uses; its own by default.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    command: Callable[[Installation, str, int], list[str]]
    endpoints: tuple[Endpoint, ...] = (Endpoint(),)
    prepare: Callable[[Installation], None] = train_here
    show: tuple[str, ...] = ()
    environment: Callable[[Installation, str], Mapping[str, str]] = field(
        default=lambda installation, model: {"MODEL": installation.model(model)}
    )
    clean_up: Callable[[Installation], None] = lambda installation: None
    verify: Callable[[Installation, int], None] = lambda installation, port: None
    home: str = ""

    def case(self, endpoint: Endpoint) -> str:
        """The name of this server asked in that form."""
        return f"{self.name}:{endpoint.name}" if endpoint.name else self.name

    def entry(self, endpoint: Endpoint) -> str:
        """How the tables call it."""
        return f"{self.title}, {endpoint.title or endpoint.name}" if endpoint.name else self.title


def run_module(python: Path, module: str, *arguments: object) -> None:
    """Run a module of the checkout under some interpreter; what it prints is kept for the error."""
    command = [str(python), "-m", module, *map(str, arguments)]
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} failed: {done.stderr.strip()[-2000:]}")


def uvicorn(installation: Installation, app: str, port: int) -> list[str]:
    """uvicorn as one would run it in production: no access log, uvloop and httptools if present."""
    options = ["--host", "127.0.0.1", "--port", str(port), "--app-dir", str(APPS)]
    return [
        installation.script("uvicorn"),
        app,
        *options,
        "--no-access-log",
        "--log-level",
        "warning",
    ]

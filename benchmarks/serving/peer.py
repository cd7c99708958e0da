"""The description of a server to benchmark, which each peer module fills in."""

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
    """An installed peer: its interpreter, its folder of models, and the project's interpreter."""

    python: Path
    folder: Path
    project_python: Path

    def script(self, name: str) -> str:
        """Return the path of an executable in the peer's environment."""
        return str(self.python.parent / name)

    def model(self, name: str) -> str:
        return str(self.folder / f"{name}.joblib")


def send_rows(rows: Rows, model: str) -> Any:
    """Encode rows as the default request: {"rows": [[...], ...]}."""
    return {"rows": rows}


def read_predictions(answer: Any) -> list[int]:
    """Decode the default response: {"predictions": [...]}."""
    return [int(label) for label in answer["predictions"]]


@dataclass(frozen=True)
class Endpoint:
    """A prediction endpoint: its path, request encoding, response decoding and headers."""

    name: str = ""
    title: str = ""
    path: Callable[[str], str] = lambda model: "/predict"
    encode: Callable[[Rows, str], Any] = send_rows
    decode: Callable[[Any], list[int]] = read_predictions
    headers: Callable[[Installation], Mapping[str, str]] = lambda installation: {}

    def body(self, rows: Rows, model: str) -> bytes:
        return json.dumps(self.encode(rows, model), separators=(",", ":")).encode()


def train_here(installation: Installation) -> None:
    """Fit both models in the peer's environment and save them as joblib files."""
    run_module(installation.python, "benchmarks.serving.train", installation.folder)


@dataclass(frozen=True)
class Peer:
    """A server to measure.

    Args:
        name: Identifies it on the command line and in the results.
        title: Its name in the tables.
        packages: pip requirements of its environment.
        command: The command line that serves one model on a port of 127.0.0.1.
        endpoints: Its prediction endpoints; the first is used where a server has a single figure.
        prepare: Creates what the command needs in the installation's folder.
        show: Packages whose versions the report lists.
        environment: Environment variables of the server process.
        clean_up: Deletes what the server wrote to disk, between measurements.
        verify: Raises RuntimeError if a feature that the report lists as enabled is off.
        home: The peer whose environment and models it shares; its own by default.
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
        """Return the identifier of this server's endpoint in the results."""
        return f"{self.name}:{endpoint.name}" if endpoint.name else self.name

    def entry(self, endpoint: Endpoint) -> str:
        """Return the endpoint's name in the tables."""
        return f"{self.title}, {endpoint.title or endpoint.name}" if endpoint.name else self.title


def run_module(python: Path, module: str, *arguments: object) -> None:
    """Run a module of the checkout with `python`; RuntimeError with its stderr if it fails."""
    command = [str(python), "-m", module, *map(str, arguments)]
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} failed: {done.stderr.strip()[-2000:]}")


def uvicorn(installation: Installation, app: str, port: int) -> list[str]:
    """Build a production uvicorn command: no access log; uvloop and httptools if present."""
    options = ["--host", "127.0.0.1", "--port", str(port), "--app-dir", str(APPS)]
    return [
        installation.script("uvicorn"),
        app,
        *options,
        "--no-access-log",
        "--log-level",
        "warning",
    ]

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
class Place:
    """Where a peer lives: its interpreter, its folder of prepared models, and our interpreter."""

    python: Path
    folder: Path
    own_python: Path

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
class Form:
    """One way of asking a server: where, with what body, and where the labels are in its answer."""

    name: str = ""
    title: str = ""
    path: Callable[[str], str] = lambda model: "/predict"
    encode: Callable[[Rows, str], Any] = send_rows
    decode: Callable[[Any], list[int]] = read_predictions
    headers: Callable[[Place], Mapping[str, str]] = lambda place: {}

    def body(self, rows: Rows, model: str) -> bytes:
        return json.dumps(self.encode(rows, model), separators=(",", ":")).encode()


def train_here(place: Place) -> None:
    """Fit both models under the peer's own interpreter and keep them as joblib files."""
    run_module(place.python, "benchmarks.serving.train", place.folder)


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
    command: Callable[[Place, str, int], list[str]]
    forms: tuple[Form, ...] = (Form(),)
    prepare: Callable[[Place], None] = train_here
    show: tuple[str, ...] = ()
    environment: Callable[[Place, str], Mapping[str, str]] = field(
        default=lambda place, model: {"MODEL": place.model(model)}
    )
    tidy: Callable[[Place], None] = lambda place: None
    prove: Callable[[Place, int], None] = lambda place, port: None
    home: str = ""

    def case(self, form: Form) -> str:
        """The name of this server asked in that form."""
        return f"{self.name}:{form.name}" if form.name else self.name

    def entry(self, form: Form) -> str:
        """How the tables call it."""
        return f"{self.title}, {form.title or form.name}" if form.name else self.title


def run_module(python: Path, module: str, *arguments: object) -> None:
    """Run a module of the checkout under some interpreter; what it prints is kept for the error."""
    command = [str(python), "-m", module, *map(str, arguments)]
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} failed: {done.stderr.strip()[-2000:]}")


def uvicorn(place: Place, app: str, port: int) -> list[str]:
    """uvicorn as one would run it in production: no access log, uvloop and httptools if present."""
    options = ["--host", "127.0.0.1", "--port", str(port), "--app-dir", str(APPS)]
    return [place.script("uvicorn"), app, *options, "--no-access-log", "--log-level", "warning"]

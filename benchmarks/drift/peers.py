"""Evidently and river, each in its own environment, isolated from Tidemill's dependencies."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drift.data import Situation

HERE = Path(__file__).parent
CACHE = HERE.parent.parent / ".bench" / "drift"

#: Evidently 0.7 does not import with pandas 3.
PACKAGES = {"evidently": ["evidently", "pandas<3"], "river": ["river"]}


@dataclass(frozen=True)
class Peer:
    """An installed peer; `python` is None if the installation failed, for the reason `why`."""

    name: str
    python: Path | None
    version: str = ""
    why: str = ""


def peer(name: str) -> Peer:
    """Return the peer, installing it if necessary."""
    python = CACHE / name / "bin" / "python"
    try:
        if not (CACHE / name / "done").exists():
            _run([sys.executable, "-m", "venv", str(CACHE / name)])
            _run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES[name]])
            (CACHE / name / "done").touch()
        code = f"from importlib.metadata import version; print(version('{name}'))"
        return Peer(name, python, _run([str(python), "-c", code]).strip())
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "").strip().splitlines()
        return Peer(name, None, why=lines[-1] if lines else str(error))


def evidently(situations: list[Situation]) -> dict[str, int] | None:
    """Count the windows that alarm with Evidently's preset, by any column and by half of them."""
    found = _run_worker("evidently", _pairs(situations))
    return None if found is None else dict(found)


def river(streams: list[np.ndarray]) -> dict[str, list[list[int]]]:
    """Return the rows at which river's detectors, with their defaults, alarm on each stream."""
    found = _run_worker("river", {f"stream_{i}": losses for i, losses in enumerate(streams)})
    return {} if found is None else {f"river: {name}": rows for name, rows in found.items()}


def _pairs(situations: list[Situation]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for number, situation in enumerate(situations):
        arrays[f"reference_{number}"] = situation.train.to_numpy()
        arrays[f"window_{number}"] = situation.window.to_numpy()
    return arrays


def _run_worker(name: str, arrays: dict[str, np.ndarray]) -> Any:
    """Run the peer's worker on the arrays; None if the peer is not installed."""
    installed = peer(name)
    if installed.python is None:
        return None
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, **arrays)
        file.flush()
        said = _run([str(installed.python), str(HERE / f"{name}_worker.py"), file.name])
    return json.loads(said.splitlines()[-1])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout

"""Throughput of `/predict`, idle and while two trainings run, in alternating rounds."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx

from benchmarks.serving.load import drive, find_wrk
from tests.servers import free_port
from tidemill.serving.shelf.shelf import ShelfState, install_bundle, write_state
from tidemill.settings import Settings

BUNDLE = Path(__file__).parent.parent / "tests" / "data" / "iris-bundle"
ROUNDS, SECONDS = 5, 3.0


def predictions_per_second(
    settings: Settings,
    process: Callable[..., AbstractContextManager[object]],
    training: Callable[[], AbstractContextManager[None]],
) -> dict[str, float]:
    """Return medians over alternating idle and training rounds, on one server process.

    Args:
        process: Context manager that runs a command with the settings.
        training: Context manager that keeps two trainings running.
    """
    digest = hashlib.sha256((BUNDLE / "manifest.json").read_bytes()).hexdigest()
    placed = install_bundle(settings.shelf, "iris", "1", BUNDLE, digest)
    write_state(
        settings.shelf, ShelfState(default="iris", models={"iris": placed}, synced_at=time.time())
    )
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["-m", "tidemill.serving", "--home", str(settings.home), "--port", str(port)]
    found: dict[str, list[float]] = {"idle": [], "training": []}
    with process(settings, *command, "--no-auth"):
        _await(f"{url}/ready")
        for _ in range(ROUNDS):
            found["idle"].append(_rate(url))
            with training():
                found["training"].append(_rate(url))
    medians = {name: round(statistics.median(rates)) for name, rates in found.items()}
    ratios = [b / a for a, b in zip(found["idle"], found["training"], strict=True)]
    return {**medians, "share": round(statistics.median(ratios), 2)}


def _rate(url: str) -> float:
    example = json.loads((BUNDLE / "example.json").read_text())
    with tempfile.NamedTemporaryFile("w", suffix=".json") as bodies:
        bodies.writelines(json.dumps({"features": row}) + "\n" for row in example["rows"])
        bodies.flush()
        load = drive(
            find_wrk(),
            f"{url}/predict",
            Path(bodies.name),
            connections=8,
            seconds=SECONDS,
            headers={"Content-Type": "application/json"},
            cores=os.sched_getaffinity(0),
        )
    if load.bad_status or load.broken:
        sys.exit(f"{load.bad_status} refused and {load.broken} broken requests")
    return load.requests / load.seconds


def _await(url: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    sys.exit(f"{url} did not answer in time")

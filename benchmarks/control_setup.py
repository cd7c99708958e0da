"""Set-up of the control plane benchmarks: servers, processes and long trainings."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.servers import free_port
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.database.database import Database
from tidemill.stores.database.schema import migrate
from tidemill.stores.jobs.jobs import NewJob

PATIENCE = 600.0
PROJECT = """
from sklearn.neural_network import MLPClassifier
from tidemill import Candidate, Project, sklearn_dataset


def network(rounds: int = 1000) -> MLPClassifier:
    return MLPClassifier((16,), max_iter=rounds, tol=0.0, n_iter_no_change=10**9, random_state=1)


project = Project("flowers", sklearn_dataset("iris"), "target", [Candidate("net", network)])
"""
API = """
import sys, uvicorn
from tidemill.api.app import create_app
from tidemill.platform import Platform
from tidemill.settings import Settings
uvicorn.run(create_app(Platform.open(Settings())), host="127.0.0.1", port=int(sys.argv[1]),
            log_level="warning", access_log=False, lifespan="off")
"""


def environment(settings: Settings) -> dict[str, str]:
    values = settings.model_dump(mode="json", exclude_none=True)
    named = {f"TIDEMILL_{name.upper()}": str(value) for name, value in values.items()}
    return {**os.environ, **named}


@contextmanager
def process(settings: Settings, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    with (settings.home / "benchmark.log").open("ab") as log:
        started = subprocess.Popen(
            [sys.executable, *command], env=environment(settings), stdout=log, stderr=log
        )
    try:
        yield started
    finally:
        started.terminate()
        started.wait(120)


@contextmanager
def api(settings: Settings) -> Iterator[httpx.Client]:
    port = free_port()
    with (
        process(settings, "-c", API, str(port)),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        until(lambda: answers(client), "the API to answer")
        yield client


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def until(true: Callable[[], bool], what: str) -> None:
    """Wait until the condition holds; the limit allows for a busy machine."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"timed out after {PATIENCE:.0f} s waiting for {what}")
        time.sleep(0.05)


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Return p50, p95 and p99 in milliseconds."""
    ordered = sorted(seconds)
    return {
        f"p{q}": round(ordered[min(len(ordered) - 1, len(ordered) * q // 100)] * 1000, 1)
        for q in (50, 95, 99)
    }


def opened(home: Path, **changes: Any) -> tuple[Settings, Platform]:
    home.mkdir(parents=True, exist_ok=True)
    (home / "flowers.py").write_text(PROJECT)
    settings = Settings(
        home=home, project=str(home / "flowers.py"), api_rate_limit="off", **changes
    )
    if settings.database_url:
        database = Database(settings.database_uri)
        migrate(database)
        database.close()
    return settings, Platform.open(settings)


def fitting(platform: Platform, job_id: str) -> bool:
    job = platform.jobs.get(job_id)
    if job.done:
        raise SystemExit(f"a long training ended early: {job.error}")
    return job.stage == "fit"


@contextmanager
def training(settings: Settings, platform: Platform) -> Iterator[None]:
    """Run two fits for the duration of the block, on a running worker."""
    long = NewJob("train", "flowers", settings.project, {"overrides": {"net": {"rounds": 10**9}}})
    busy = [platform.submit(long)[0].id for _ in range(2)]
    until(lambda: all(fitting(platform, each) for each in busy), "two fits")
    try:
        yield
    finally:
        for each in busy:
            fitting(platform, each)
            platform.jobs.cancel(each)
        until(lambda: all(platform.jobs.get(each).done for each in busy), "the fits to stop")

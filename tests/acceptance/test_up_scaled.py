"""`tidemill up --scaled`: two APIs and three workers on real PostgreSQL, Redis and MLflow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_up import Up, alive, descendants, running

pytestmark = pytest.mark.slow
LONG = 900.0
PREDICTION = {
    "features": {"sepal_length": 5.0, "sepal_width": 3.4, "petal_length": 1.5, "petal_width": 0.2}
}


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that PostgreSQL's user can reach, where root runs the tests."""
    folder = Path(tempfile.mkdtemp(prefix="tm-scaled-"))
    folder.chmod(0o755)
    yield folder / "home"
    shutil.rmtree(folder, ignore_errors=True)


class Api:
    """One instance, asked with the user's key."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.headers = {"X-API-Key": key, "Content-Type": "application/json"}

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, self.headers)
        with urllib.request.urlopen(request, timeout=LONG) as answer:
            return json.load(answer)

    def follow(self, job: str) -> None:
        """Listen to a job's events to their end."""
        request = urllib.request.Request(f"{self.url}/jobs/{job}/events", headers=self.headers)
        with urllib.request.urlopen(request, timeout=LONG) as stream:
            assert any(line.startswith(b"event: end") for line in stream)


def commands(pids: set[int]) -> list[str]:
    found = []
    for pid in pids:
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_two_apis_and_three_workers_share_one_set_of_servers(home: Path) -> None:
    with running(home, "--scaled", "--first", "gallery:iris") as up:
        up.await_text("from iris-classifier", LONG)
        key = (home / "key").read_text()
        first, second = Api(up.api, key), Api(f"http://127.0.0.1:{up.ports[0] + 1}", key)
        for api in (first, second):
            assert api.ask("/predict", PREDICTION)["prediction"] == "Iris-setosa"
            ready = api.ask("/ready")
            assert (ready["mlflow"], ready["redis"]) == ("ok", "ok")
        _train_on_one_and_look_on_the_other(first, second)
        _count_programs(up)
        _ask_the_doctor(home)
        children = descendants(up.process.pid)
        assert up.end() == 0
    assert [pid for pid in children if alive(pid)] == []
    assert "Traceback" not in up.output.read_text()


def _train_on_one_and_look_on_the_other(one: Api, other: Api) -> None:
    job = one.ask("/train", {"model": "iris-classifier"})["job_id"]
    other.follow(job)
    ended = other.ask(f"/jobs/{job}")
    assert ended["status"] == "succeeded", ended
    trials = other.ask(f"/jobs?parent={job}")["items"]
    assert [trial["status"] for trial in trials] == ["succeeded", "succeeded"]
    assert one.ask("/models/iris-classifier")["versions"][0]["version"] == "2"


def _count_programs(up: Up) -> None:
    started = commands(descendants(up.process.pid))
    assert sum("-m tidemill.api.one_port" in each for each in started) == 2
    assert sum("-m tidemill.worker " in each for each in started) == 3
    assert any("postgres -D" in each for each in started)
    assert any("redis-server 127.0.0.1" in each for each in started)
    passwords = [
        (up.output.parent / "home" / name / "password").read_text()
        for name in ("postgres", "redis")
    ]
    assert not any(password in each for password in passwords for each in started)


def _ask_the_doctor(home: Path) -> None:
    """As another terminal does, with the addresses that `up` wrote down."""
    command = f'set -a; . {home}/scaled.env; exec "$0" -m tidemill doctor --json'
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(
        ["sh", "-c", command, sys.executable],
        env=clean, capture_output=True, text=True, timeout=LONG, check=False,
    )  # fmt: skip
    found = {each["part"]: each for each in json.loads(done.stdout)}
    assert found["database"]["detail"].startswith("postgresql at schema")
    assert found["broker"]["detail"].startswith("redis://:**@127.0.0.1")
    assert {found[part]["state"] for part in ("database", "broker", "limits", "mlflow")} == {"ok"}

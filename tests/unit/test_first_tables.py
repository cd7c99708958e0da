"""MLflow's tables in a file of SQLite: whole or not there, whoever makes them and is killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tidemill.stores.first_tables import make_first_tables
from tidemill.stores.tracking import Tracking

#: Both ways to MLflow: what tracks runs, and the client that jobs ask.
OPEN = """
import sys
from pathlib import Path
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.tracking import Tracking
uri, name = sys.argv[1:]
tracking = Tracking(uri)
home = Path(uri.removeprefix("sqlite:///")).with_name(name)
platform = Platform.open(Settings(home=home, tracking_uri=uri))
import mlflow.store.db.utils
print("ready", flush=True)
sys.stdin.readline()
if name.endswith("0"):
    platform.tracking.search_experiments()
tracking.experiment(name)
platform.close()
"""


def start(uri: str, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", OPEN, uri, name]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_several_processes_open_a_new_file_at_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    started = [start(uri, f"flowers-{number}") for number in range(3)]
    for each in started:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in started:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    for each in started:
        _, said = each.communicate(timeout=300)
        assert each.returncode == 0, said
    names = Tracking(uri).call(lambda client: {e.name for e in client.search_experiments()})
    assert {"flowers-0", "flowers-1", "flowers-2"} <= names


def test_a_kill_in_the_making_leaves_nothing_behind_that_matters(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    draft = tmp_path / ".mlflow.db.draft"
    first = start(f"sqlite:///{file}", "flowers")
    assert first.stdout is not None
    assert first.stdin is not None
    assert first.stdout.readline() == "ready\n"
    first.stdin.write("go\n")
    first.stdin.flush()
    while not draft.exists() and not file.exists():
        assert first.poll() is None
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=300)
    assert draft.exists(), "it was killed too late"
    assert not file.exists()

    Tracking(f"sqlite:///{file}").experiment("flowers")
    assert not draft.exists()


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "sqlite:///:memory:", "postgresql://h/d"])
def test_other_stores_are_left_alone(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_first_tables(uri)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE mine (id INTEGER)")
    make_first_tables(f"sqlite:///{file}")
    with closing(sqlite3.connect(file)) as connection:
        found = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema")]
    assert found == ["mine"]

"""MLflow's tables in an SQLite file: complete or absent, even if their creator is killed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tidemill.stores.mlflow.sqlite_store import create_mlflow_tables
from tidemill.stores.mlflow.tracking import Tracking

#: Opens MLflow in both ways: through Tracking, and through the platform's client. One process for
#: each name.
OPEN = """
import os, sys
from pathlib import Path
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.mlflow.tracking import Tracking
import mlflow.store.db.utils
uri, name, *more = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
for another in more:
    if os.fork() == 0:
        name, more = another, []
        break
tracking = Tracking(uri)
home = Path(uri.removeprefix("sqlite:///")).with_name(name)
platform = Platform.open(Settings(home=home, tracking_uri=uri))
if name.endswith("0"):
    platform.tracking.search_experiments()
tracking.experiment(name)
platform.close()
assert [os.wait()[1] for _ in more] == [0] * len(more)
"""


@pytest.fixture(autouse=True, scope="module")
def mlflow_tables() -> None:
    """Made anew here, by what is tested."""


@contextmanager
def opening(uri: str, *names: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has loaded what it needs and opens the store from now on."""
    command = [sys.executable, "-W", "ignore", "-c", OPEN, uri, *names]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == "ready\n"
            process.stdin.write("go\n")
            process.stdin.flush()
            yield process
        finally:
            process.kill()


def test_several_processes_open_a_new_file_at_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with opening(uri, "flowers-0", "flowers-1", "flowers-2") as process:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    names = Tracking(uri).call(lambda client: {e.name for e in client.search_experiments()})
    assert {"flowers-0", "flowers-1", "flowers-2"} <= names


def test_a_kill_while_the_tables_are_created_does_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    draft = tmp_path / ".mlflow.db.draft"
    with opening(f"sqlite:///{file}", "flowers") as process:
        while not draft.exists() and not file.exists():
            assert process.poll() is None
    assert draft.exists(), "it was killed too late"
    assert not file.exists()

    Tracking(f"sqlite:///{file}").experiment("flowers")
    assert not draft.exists()


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "sqlite:///:memory:", "postgresql://h/d"])
def test_other_stores_are_not_touched(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    create_mlflow_tables(uri)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_not_touched(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE mine (id INTEGER)")
    create_mlflow_tables(f"sqlite:///{file}")
    with closing(sqlite3.connect(file)) as connection:
        found = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema")]
    assert found == ["mine"]

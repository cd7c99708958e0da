"""SQLite orders MLflow's runs by a metric without comparing every pair of runs."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tidemill.stores.mlflow.sqlite_store import STATISTICS, write_query_statistics

# MLflow's query for runs ordered by a metric.
QUERY = """
SELECT DISTINCT runs.*, found.value FROM runs
LEFT OUTER JOIN (SELECT * FROM latest_metrics WHERE key = 'f1') AS found
ON runs.run_uuid = found.run_uuid ORDER BY found.value DESC LIMIT 51
"""


@pytest.fixture
def store(tmp_path: Path, mlflow_template: Path) -> Path:
    return Path(shutil.copy(mlflow_template, tmp_path / "mlflow.db"))


@pytest.fixture
def connection(store: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(store, isolation_level=None, cached_statements=0)) as opened:
        yield opened


def plan(connection: sqlite3.Connection) -> str:
    connection.execute("SELECT count(*) FROM runs").fetchone()  # EXPLAIN reads no file
    return "\n".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {QUERY}"))


def test_an_open_connection_uses_an_index_once_statistics_are_written(
    store: Path, connection: sqlite3.Connection
) -> None:
    before = plan(connection)
    assert "INDEX (run_uuid=?)" not in before
    write_query_statistics(f"sqlite:///{store}")
    assert "INDEX (run_uuid=?)" in plan(connection)


def test_statistics_are_written_once_and_measured_ones_are_kept(
    store: Path, connection: sqlite3.Connection
) -> None:
    for _ in range(2):
        write_query_statistics(f"sqlite:///{store}")
    rows = connection.execute("SELECT * FROM sqlite_stat1").fetchall()
    assert sorted(rows) == sorted(STATISTICS)
    connection.execute("UPDATE sqlite_stat1 SET stat = '7 7 1' WHERE tbl = 'latest_metrics'")
    write_query_statistics(f"sqlite:///{store}")
    assert connection.execute(
        "SELECT stat FROM sqlite_stat1 WHERE tbl = 'latest_metrics'"
    ).fetchall() == [("7 7 1",)]


def test_other_stores_and_empty_files_are_left_alone(tmp_path: Path) -> None:
    empty = tmp_path / "empty.db"
    empty.touch()
    for uri in (f"sqlite:///{empty}", "http://127.0.0.1:5000", f"file://{tmp_path}", "mlruns", ""):
        write_query_statistics(uri)
    assert empty.stat().st_size == 0
    assert list(tmp_path.iterdir()) == [empty]


def test_a_locked_store_only_logs_a_warning(
    store: Path,
    connection: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("tidemill.stores.mlflow.sqlite_store.LOCK_SECONDS", 0.0)
    connection.execute("BEGIN IMMEDIATE")
    write_query_statistics(f"sqlite:///{store}")
    assert "locked" in caplog.text


def test_a_missing_file_is_not_created(tmp_path: Path) -> None:
    write_query_statistics(f"sqlite:///{tmp_path}/mlflow.db")
    assert not list(tmp_path.iterdir())

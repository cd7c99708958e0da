"""MLflow's store in an SQLite file: creates its tables in one step, and speeds up its queries.

MLflow creates and migrates its tables itself, in some seconds. Two processes that do so at once, or
one that is killed meanwhile, leave a file that no MLflow can open. So the tables are created in a
draft file, by one process at a time, which is renamed when they are complete.

MLflow orders runs by a metric with a join inside a DISTINCT. Without statistics SQLite's query
planner expects ten rows and compares every run with every other: minutes for 10,000 runs. With
statistics that suggest many rows it builds an index for the query and takes milliseconds, however
many there are. Measured statistics (ANALYZE) would do as well, until the tables have grown.

See decisions 135 and 192.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from tidemill.settings import sqlite_url
from tidemill.stores.file_lock import file_lock

LOCK_SECONDS = 5.0
#: Rows of each index, and how many share each of its first columns: sqlite.org/fileformat2.html
STATISTICS = (
    ("runs", "sqlite_autoindex_runs_1", "100000 1"),
    ("latest_metrics", "sqlite_autoindex_latest_metrics_1", "1000000 100000 1"),
    ("params", "sqlite_autoindex_params_1", "1000000 100000 1"),
    ("tags", "sqlite_autoindex_tags_1", "1000000 100000 1"),
)

log = logging.getLogger(__name__)


def create_mlflow_tables(uri: str) -> None:
    """Create MLflow's tables if the URI names an SQLite file that does not exist.

    Raises:
        OSError: The folder cannot be written to.
        sqlalchemy.exc.SQLAlchemyError: The tables cannot be created.
    """
    path = sqlite_file(uri)
    if path is None or Path(path).exists():
        return
    file = Path(path)
    with file_lock(file.with_name(f".{file.name}.lock")):
        if not file.exists():
            _create_tables(file)


def write_query_statistics(uri: str) -> None:
    """Write statistics for SQLite's query planner, once per file; open connections use them too.

    Does nothing for another kind of store, before MLflow has created its tables, or where measured
    statistics exist.

    Args:
        uri: MLflow's tracking URI.
    """
    path = sqlite_file(uri)
    if path is None or not Path(path).exists():  # connecting would create an empty file
        return
    try:
        with closing(
            sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)
        ) as connection:
            if _needs_statistics(connection):
                _insert_statistics(connection)
    except sqlite3.Error as error:  # costs only speed, and the next process tries again
        log.warning("%s is queried without statistics: %s", path, error)


def sqlite_file(uri: str) -> str | None:
    """Return the file that an SQLite URI names; None for another kind of store or `:memory:`."""
    with suppress(ArgumentError):
        url = make_url(uri)
        if url.get_backend_name() == "sqlite" and url.database not in (None, ":memory:"):
            return url.database
    return None


def _create_tables(file: Path) -> None:
    from mlflow.store.db.utils import _initialize_tables
    from sqlalchemy import create_engine

    draft = file.with_name(f".{file.name}.draft")
    draft.unlink(missing_ok=True)  # left by a process that was killed
    engine = create_engine(sqlite_url(draft))
    try:
        _initialize_tables(engine)
    finally:
        engine.dispose()
    draft.replace(file)


def _needs_statistics(connection: sqlite3.Connection) -> bool:
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema")}
    if not {index for _, index, _ in STATISTICS} <= names:
        return False
    if "sqlite_stat1" not in names:
        return True
    query = "SELECT count(*) FROM sqlite_stat1 WHERE tbl = 'latest_metrics'"
    return bool(connection.execute(query).fetchone() == (0,))


def _insert_statistics(connection: sqlite3.Connection) -> None:
    # In one transaction: creating the table is what makes open connections read its rows.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ANALYZE sqlite_schema")  # creates the table sqlite_stat1
    connection.executemany("INSERT INTO sqlite_stat1 VALUES (?, ?, ?)", STATISTICS)
    connection.execute("COMMIT")

"""What SQLite's query planner is told about MLflow's tables, which have no statistics of their own.

MLflow orders runs by a metric with a join inside a DISTINCT. Knowing nothing, SQLite expects ten
rows and compares each run with each: minutes for 10,000 runs. Told that there may be many it makes
an index for the query, and takes milliseconds however many there are. Statistics that were really
measured would do as well, but only until the tables have grown.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

PATIENCE = 5.0  # seconds for the write lock
#: Rows of each index, and how many share each of its first columns: sqlite.org/fileformat2.html
STATISTICS = (
    ("runs", "sqlite_autoindex_runs_1", "100000 1"),
    ("latest_metrics", "sqlite_autoindex_latest_metrics_1", "1000000 100000 1"),
    ("params", "sqlite_autoindex_params_1", "1000000 100000 1"),
    ("tags", "sqlite_autoindex_tags_1", "1000000 100000 1"),
)

log = logging.getLogger(__name__)


def write_query_statistics(uri: str) -> None:
    """Tell it, once for each database; connections that are open hear of it too.

    Does nothing for another kind of store, before MLflow has made its tables, or where somebody
    has measured statistics.

    Args:
        uri: Where MLflow keeps its runs.
    """
    path = sqlite_file(uri)
    if path is None or not Path(path).exists():  # to connect would make it, empty
        return
    try:
        with closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as connection:
            if _advice_is_due(connection):
                _advise(connection)
    except sqlite3.Error as error:  # a matter of speed, and the next process tries again
        log.warning("%s is searched without statistics: %s", path, error)


def sqlite_file(uri: str) -> str | None:
    """The file that a URI of SQLite names; None for another kind of store, or one in memory."""
    with suppress(ArgumentError):
        url = make_url(uri)
        if url.get_backend_name() == "sqlite" and url.database not in (None, ":memory:"):
            return url.database
    return None


def _advice_is_due(connection: sqlite3.Connection) -> bool:
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema")}
    if not {index for _, index, _ in STATISTICS} <= names:
        return False
    if "sqlite_stat1" not in names:
        return True
    query = "SELECT count(*) FROM sqlite_stat1 WHERE tbl = 'latest_metrics'"
    return bool(connection.execute(query).fetchone() == (0,))


def _advise(connection: sqlite3.Connection) -> None:
    # In one transaction: the new table is what makes open connections read its rows.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ANALYZE sqlite_schema")  # makes the table of statistics
    connection.executemany("INSERT INTO sqlite_stat1 VALUES (?, ?, ?)", STATISTICS)
    connection.execute("COMMIT")

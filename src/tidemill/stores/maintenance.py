"""Database maintenance: row counts, size, and deleting old rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Table, delete, func, select, text

from tidemill.errors import RequestError
from tidemill.stores.database.database import Database
from tidemill.stores.database.schema import schema_version
from tidemill.stores.database.tables import (
    api_metrics,
    contests,
    drift_results,
    feedback,
    jobs,
    metadata,
    model_metrics,
    monitor_results,
    notices,
    predictions,
    request_log,
    triggers,
)
from tidemill.stores.jobs.jobs import FINAL

#: Tables that may be cleared, and the column with the age of a row.
CLEARABLE: dict[str, str] = {
    "request_log": "time",
    "api_metrics": "minute",
    "model_metrics": "time",
    "predictions": "time",
    "feedback": "time",
    "drift_results": "time",
    "monitor_results": "time",
    "triggers": "closed",
    "contests": "closed",
    "notices": "time",
    "jobs": "finished",
}
_TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        request_log,
        api_metrics,
        model_metrics,
        predictions,
        feedback,
        drift_results,
        monitor_results,
        notices,
        triggers,
        contests,
        jobs,
    )
}
# Counting the rows of a longer table takes too long; PostgreSQL's estimate is used.
EXACT_UP_TO = 200_000


def database_stats(database: Database) -> dict[str, Any]:
    """Return rows by table (estimated for long tables), size in bytes, and the schema version."""
    return {
        "dialect": database.dialect,
        "schema": schema_version(database),
        "bytes": _size(database),
        "tables": {table.name: _count(database, table) for table in metadata.sorted_tables},
    }


def check_clearable(names: Sequence[str]) -> None:
    """Check that every name is a table that may be cleared.

    Raises:
        RequestError: One is not.
    """
    for name in names:
        if name not in CLEARABLE:
            raise RequestError(
                f"'{name}' cannot be cleared.",
                field="tables",
                expected=f"some of {', '.join(CLEARABLE)}",
            )


def clear(database: Database, names: Sequence[str], before: float) -> dict[str, int]:
    """Delete rows older than a time (seconds since the epoch); return how many, by table.

    Unfinished jobs, open triggers and open contests are kept, and so is the newest contest of each
    model, from which later retrainings start.
    """
    check_clearable(names)
    deleted = {}
    for name in dict.fromkeys(names):
        table = _TABLES[name]
        statement = delete(table).where(table.c[CLEARABLE[name]] < before)
        if name == "jobs":
            statement = statement.where(jobs.c.state.in_(FINAL))
        if name == "contests":
            newest = select(func.max(contests.c.id)).group_by(contests.c.model)
            statement = statement.where(contests.c.id.not_in(newest))
        with database.write() as connection:
            deleted[name] = connection.execute(statement).rowcount
    return deleted


def _count(database: Database, table: Table) -> int:
    if database.dialect == "postgresql":
        query = text("SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(:name)")
        with database.read() as connection:
            estimate = connection.execute(query, {"name": table.name}).scalar_one()
        if estimate > EXACT_UP_TO:
            return int(estimate)
    with database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def _size(database: Database) -> int:
    query = (
        "SELECT pg_database_size(current_database())"
        if database.dialect == "postgresql"
        else "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
    )
    with database.read() as connection:
        return int(connection.execute(text(query)).scalar_one())

"""Reading the tables of records, counting them, and clearing what is old."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Table, delete, func, insert, select, text

from tidemill.errors import RequestError
from tidemill.stores.database.database import Database, EpochNow
from tidemill.stores.database.pages import ResultPage, read_page
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

#: Tables that may be cleared, and the column that says how old a row is.
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
# Counting every row of a table this long takes longer than anyone waits.
EXACT_UP_TO = 200_000


def api_minutes(
    database: Database,
    *,
    route: str | None = None,
    since: float | None = None,
    until: float | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> ResultPage[dict[str, Any]]:
    """Requests by minute and route, newest first, with the mean time to answer."""
    table = api_metrics.c
    where = [] if route is None else [table.route == route]
    where += [] if since is None else [table.minute >= since]
    where += [] if until is None else [table.minute < until]
    page = read_page(
        database, api_metrics, table.id, where=tuple(where), limit=limit, cursor=cursor
    )
    return ResultPage([_with_mean(row) for row in page.items], page.next)


def _with_mean(row: dict[str, Any]) -> dict[str, Any]:
    total = row.pop("milliseconds")
    return {**row, "mean_milliseconds": total / row["requests"]}


def model_values(
    database: Database,
    *,
    model: str | None = None,
    version: str | None = None,
    metric: str | None = None,
    source: str | None = None,
    since: float | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> ResultPage[dict[str, Any]]:
    """Metrics of versions, newest first."""
    table = model_metrics.c
    wanted = {
        table.model: model,
        table.version: version,
        table.metric: metric,
        table.source: source,
    }
    where = [column == value for column, value in wanted.items() if value is not None]
    where += [] if since is None else [table.time >= since]
    return read_page(
        database, model_metrics, table.id, where=tuple(where), limit=limit, cursor=cursor
    )


def record_metrics(
    database: Database,
    model: str,
    version: str,
    metrics: Mapping[str, float | None],
    *,
    source: str,
    run_id: str | None = None,
) -> None:
    """Keep what was measured of a version; what this source said of it before is replaced."""
    table = model_metrics.c
    rows = [
        {
            "time": EpochNow(),
            "model": model,
            "version": version,
            "metric": name,
            "value": value,
            "source": source,
            "run_id": run_id,
        }
        for name, value in metrics.items()
        if value is not None and math.isfinite(value)
    ]
    with database.write() as connection:
        connection.execute(
            delete(model_metrics).where(
                table.model == model, table.version == version, table.source == source
            )
        )
        for row in rows:
            connection.execute(insert(model_metrics).values(row))


def database_stats(database: Database) -> dict[str, Any]:
    """Rows by table (estimated where there are very many), bytes, and the schema's version."""
    return {
        "dialect": database.dialect,
        "schema": schema_version(database),
        "bytes": _size(database),
        "tables": {table.name: _count(database, table) for table in metadata.sorted_tables},
    }


def check_clearable(names: Sequence[str]) -> None:
    """Refuse the name of a table that is not there or is never cleared.

    Raises:
        RequestError: Naming the first such table.
    """
    for name in names:
        if name not in CLEARABLE:
            raise RequestError(
                f"'{name}' cannot be cleared.",
                field="tables",
                expected=f"some of {', '.join(CLEARABLE)}",
            )


def clear(database: Database, names: Sequence[str], before: float) -> dict[str, int]:
    """Delete the rows older than a moment (seconds since the epoch); how many, by table.

    Jobs that have not ended, triggers and contests that are open, and the newest contest of each
    model, from which later retrainings start, stay.
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

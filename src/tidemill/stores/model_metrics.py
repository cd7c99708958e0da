"""The metrics of model versions: measured in training, at the gate, live, or estimated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, insert

from tidemill.stores.database.database import Database, EpochNow
from tidemill.stores.database.queries import ResultPage, conditions, read_page
from tidemill.stores.database.tables import model_metrics


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
    """Return a page of metrics of versions, newest first."""
    table = model_metrics.c
    equal = {
        table.model: model,
        table.version: version,
        table.metric: metric,
        table.source: source,
    }
    where = conditions(equal, time=table.time, since=since)
    return read_page(database, model_metrics, table.id, where=where, limit=limit, cursor=cursor)


def record_metrics(
    database: Database,
    model: str,
    version: str,
    metrics: Mapping[str, float | None],
    *,
    source: str,
    run_id: str | None = None,
) -> None:
    """Store the metrics of a version, replacing those that this source stored before."""
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

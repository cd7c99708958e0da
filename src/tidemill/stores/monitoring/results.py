"""Results of monitoring checks, and the state between checks.

`drift_results` has a row for each feature of a checked window, and rows for whole windows, whose
`feature` is null: `window` (drift), `decay`, `estimate` and `sequential`, with the report in
`details`. `model_metrics` has the live metric and the accuracy estimate of each window. `watches`
has one row for each model: the state, and the last verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.exc import IntegrityError

from tidemill.errors import ConflictError
from tidemill.stores.database.database import Database, EpochNow
from tidemill.stores.database.queries import ResultPage, conditions, json_safe, read_page
from tidemill.stores.database.tables import drift_results, model_metrics, watches
from tidemill.stores.monitoring.triggers import (
    NewTrigger,
    Trigger,
    TriggerState,
    close_trigger,
    open_trigger,
)

#: Rows about a whole window, by the check they come from.
WHOLE = ("window", "decay", "estimate", "sequential")


@dataclass(frozen=True)
class MonitoredModel:
    """The row of one model: the state of its checks and the last verdict."""

    model: str
    version: str
    state: Mapping[str, Any]
    verdict: Mapping[str, Any] | None
    updated: float


TriggerClosure = tuple[str, TriggerState, Mapping[str, Any]]


@dataclass(frozen=True)
class MonitoringUpdate:
    """What one check writes, in one transaction.

    Attributes:
        results: Rows of `drift_results`, without model, version and time.
        metrics: Rows of `model_metrics`, likewise.
        triggers: Triggers to open; those that exist already are left out.
        closing: Triggers to close: id, state and evidence.
        previous: When the state that this one replaces was written; None where there was none.
    """

    model: str
    version: str
    state: Mapping[str, Any]
    verdict: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]] = ()
    metrics: Sequence[Mapping[str, Any]] = ()
    triggers: Sequence[NewTrigger] = ()
    closing: Sequence[TriggerClosure] = ()
    previous: float | None = None


class MonitoringResults:
    """The tables `drift_results`, `model_metrics` and `watches` of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, model: str) -> MonitoredModel | None:
        """Return a model's row; None before its first check."""
        found = self._database.rows(select(watches).where(watches.c.model == model))
        return MonitoredModel(**found[0]) if found else None

    def all(self) -> list[MonitoredModel]:
        """Return the rows of all models that were ever checked, by name."""
        found = self._database.rows(select(watches).order_by(watches.c.model))
        return [MonitoredModel(**row) for row in found]

    def save(self, update: MonitoringUpdate) -> list[Trigger]:
        """Write an update, and return the triggers that were opened.

        Raises:
            ConflictError: Another process checked the model meanwhile; nothing was written.
        """
        with self._database.write() as connection:
            self._keep_state(connection, update)
            who = {"model": update.model, "version": update.version, "time": EpochNow()}
            for row in update.results:
                connection.execute(insert(drift_results).values(**who, **_plain(row)))
            for row in update.metrics:
                connection.execute(insert(model_metrics).values(**who, **_plain(row)))
            for trigger_id, state, evidence in update.closing:
                close_trigger(connection, trigger_id, state, evidence)
            return [t for new in update.triggers if (t := _opened(connection, new)) is not None]

    def _keep_state(self, connection: Connection, update: MonitoringUpdate) -> None:
        last = (watches.c.model == update.model, watches.c.updated == update.previous)
        gone = connection.execute(delete(watches).where(*last)).rowcount
        if update.previous is not None and gone == 0:
            raise _overtaken(update.model)
        values = {
            "model": update.model,
            "version": update.version,
            "state": json_safe(dict(update.state)),
            "verdict": json_safe(dict(update.verdict)),
        }
        try:
            connection.execute(insert(watches).values(**values, updated=EpochNow()))
        except IntegrityError:
            raise _overtaken(update.model) from None

    def results(
        self,
        *,
        model: str | None = None,
        version: str | None = None,
        feature: str | None = None,
        test: str | None = None,
        drifted: bool | None = None,
        whole: bool | None = None,
        since: float | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> ResultPage[dict[str, Any]]:
        """Return a page of `drift_results`, newest first; `whole` selects windows or features."""
        table = drift_results.c
        where = conditions(
            {
                table.model: model,
                table.version: version,
                table.feature: feature,
                table.test: test,
                table.drifted: drifted,
            },
            time=table.time,
            since=since,
        )
        where += () if whole is None else (_is_whole(whole),)
        return read_page(
            self._database, drift_results, table.id, where=where, limit=limit, cursor=cursor
        )


def _overtaken(model: str) -> ConflictError:
    return ConflictError(
        f"'{model}' was checked by another process at the same time.", remedy="Try again."
    )


def _is_whole(whole: bool) -> Any:
    feature = drift_results.c.feature
    return feature.is_(None) if whole else feature.is_not(None)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json_safe(dict(row))
    return found


def _opened(connection: Connection, new: NewTrigger) -> Trigger | None:
    """Open a trigger; None where its cause was acted on, or another trigger conflicts."""
    try:
        with connection.begin_nested():
            return open_trigger(connection, new)
    except IntegrityError:
        return None

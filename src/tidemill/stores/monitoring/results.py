"""What checks found, and what is remembered from check to check.

`drift_results` has a row for each feature of a checked window and rows for whole windows, whose
`feature` is null: `window` (drift), `decay`, `estimate` and `sequential`, with the report in
`details`. `model_metrics` has the live metric and the estimate of each window. `watches` has one
row a model: the state, and the last verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.exc import IntegrityError

from tidemill.errors import ConflictError
from tidemill.stores.database.database import Database, EpochNow
from tidemill.stores.database.queries import ResultPage, json_safe, read_page
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
    """The row of one model."""

    model: str
    version: str
    state: Mapping[str, Any]
    verdict: Mapping[str, Any] | None
    updated: float


TriggerClosure = tuple[str, TriggerState, Mapping[str, Any]]


@dataclass(frozen=True)
class MonitoringUpdate:
    """What one look leaves behind, written in one transaction.

    Attributes:
        results: Rows of `drift_results`, without model, version and time.
        metrics: Rows of `model_metrics`, likewise.
        triggers: To be opened; one whose cause was acted on already is left out.
        closing: Triggers to be closed: id, state and evidence.
        seen: When the state that this follows from was written; None where there was none.
    """

    model: str
    version: str
    state: Mapping[str, Any]
    verdict: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]] = ()
    metrics: Sequence[Mapping[str, Any]] = ()
    triggers: Sequence[NewTrigger] = ()
    closing: Sequence[TriggerClosure] = ()
    seen: float | None = None


class MonitoringResults:
    """The three tables in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, model: str) -> MonitoredModel | None:
        """What is remembered of a model; None before its first look."""
        found = self._database.rows(select(watches).where(watches.c.model == model))
        return MonitoredModel(**found[0]) if found else None

    def all(self) -> list[MonitoredModel]:
        """Every model that was ever looked at, by name."""
        found = self._database.rows(select(watches).order_by(watches.c.model))
        return [MonitoredModel(**row) for row in found]

    def save(self, findings: MonitoringUpdate) -> list[Trigger]:
        """Write all of it or nothing; the triggers that were opened come back.

        Raises:
            ConflictError: Somebody else looked at the model meanwhile.
        """
        with self._database.write() as connection:
            self._keep_state(connection, findings)
            who = {"model": findings.model, "version": findings.version, "time": EpochNow()}
            for row in findings.results:
                connection.execute(insert(drift_results).values(**who, **_plain(row)))
            for row in findings.metrics:
                connection.execute(insert(model_metrics).values(**who, **_plain(row)))
            for trigger_id, state, evidence in findings.closing:
                close_trigger(connection, trigger_id, state, evidence)
            return [t for new in findings.triggers if (t := _opened(connection, new)) is not None]

    def _keep_state(self, connection: Connection, findings: MonitoringUpdate) -> None:
        last = (watches.c.model == findings.model, watches.c.updated == findings.seen)
        gone = connection.execute(delete(watches).where(*last)).rowcount
        if findings.seen is not None and gone == 0:
            raise _overtaken(findings.model)
        values = {
            "model": findings.model,
            "version": findings.version,
            "state": json_safe(dict(findings.state)),
            "verdict": json_safe(dict(findings.verdict)),
        }
        try:
            connection.execute(insert(watches).values(**values, updated=EpochNow()))
        except IntegrityError:
            raise _overtaken(findings.model) from None

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
        """Rows of `drift_results`, newest first; `whole` tells windows from features."""
        table = drift_results.c
        wanted = {
            table.model: model, table.version: version, table.feature: feature, table.test: test,
            table.drifted: drifted,
        }  # fmt: skip
        where = [column == value for column, value in wanted.items() if value is not None]
        where += [] if since is None else [table.time >= since]
        where += [] if whole is None else [_is_whole(whole)]
        return read_page(
            self._database, drift_results, table.id, where=tuple(where), limit=limit, cursor=cursor
        )


def _overtaken(model: str) -> ConflictError:
    return ConflictError(
        f"'{model}' was checked by somebody else at the same time.", remedy="Try again."
    )


def _is_whole(whole: bool) -> Any:
    feature = drift_results.c.feature
    return feature.is_(None) if whole else feature.is_not(None)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json_safe(dict(row))
    return found


def _opened(connection: Connection, new: NewTrigger) -> Trigger | None:
    """The trigger, or None where the database knows this cause, or another one in its way."""
    try:
        with connection.begin_nested():
            return open_trigger(connection, new)
    except IntegrityError:
        return None

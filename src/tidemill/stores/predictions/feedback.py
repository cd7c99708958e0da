"""The labels of predictions: stored, listed and counted; see `label_joins` for their outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import func, insert, select, update

from tidemill.signature import Label
from tidemill.stores.database.database import Database
from tidemill.stores.database.queries import ResultPage, conditions, read_page
from tidemill.stores.database.tables import feedback
from tidemill.stores.predictions.label_joins import (
    EXPIRED,
    IS_WAITING,
    WAITING,
    database_now,
    decide_outcomes,
    lock_labels,
)
from tidemill.stores.predictions.labels import check_prediction_id, encode_label


@dataclass(frozen=True)
class NewLabel:
    """The true value for a prediction; `replace` corrects a label that was joined before."""

    id: str
    actual: Label
    replace: bool = False


@dataclass(frozen=True)
class LabelResult:
    """The outcome of one label, and the reason if it did not become the truth."""

    id: str
    outcome: str
    reason: str | None = None


class Feedback:
    """The table `feedback`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, labels: Sequence[NewLabel], *, key_id: str | None = None) -> list[LabelResult]:
        """Store labels, all or none.

        Returns:
            The outcome of each label, in order.

        Raises:
            RequestError: A label or an id is invalid; the error's field has its position. Nothing
                was stored.
            UnavailableError: The database cannot be reached; nothing was stored.
        """
        rows = [_row(position, label, key_id) for position, label in enumerate(labels)]
        if not rows:
            return []
        with self._database.write() as connection:
            lock_labels(connection)
            now = database_now(connection)
            decide_outcomes(connection, rows, now)
            for row in rows:
                row["time"] = now
            connection.execute(insert(feedback), rows)
        return [LabelResult(r["prediction_id"], r["outcome"], r["reason"]) for r in rows]

    def page(
        self,
        *,
        model: str | None = None,
        outcome: str | None = None,
        prediction_id: str | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> ResultPage[dict[str, Any]]:
        """Return a page of labels with their outcomes, newest first."""
        table = feedback.c
        equal = {table.model: model, table.outcome: outcome, table.prediction_id: prediction_id}
        where = conditions(equal, time=table.time, since=since, until=until)
        page = read_page(
            self._database, feedback, table.id, where=where, limit=limit, cursor=cursor
        )
        items = [{**row, "actual": msgspec.json.decode(row["actual"])} for row in page.items]
        return ResultPage(items, page.next)

    def counts(self, model: str | None = None) -> dict[str, int]:
        """Return the number of labels by outcome."""
        query = select(feedback.c.outcome, func.count().label("labels"))
        if model is not None:
            query = query.where(feedback.c.model == model)
        rows = self._database.rows(query.group_by(feedback.c.outcome))
        return {row["outcome"]: row["labels"] for row in rows}

    def expire(self, before: float) -> int:
        """Expire labels that have waited since before a time; return how many."""
        with self._database.write() as connection:
            lock_labels(connection)
            return connection.execute(
                update(feedback)
                .where(IS_WAITING, feedback.c.time < before)
                .values(outcome=EXPIRED, reason="No such prediction arrived in time.")
            ).rowcount


def _row(position: int, label: NewLabel, key_id: str | None) -> dict[str, Any]:
    return {
        "prediction_id": check_prediction_id(position, label.id),
        "actual": encode_label(position, label.actual),
        "replaces": label.replace,
        "key_id": key_id,
        "model": None,
        "joined": None,
        "reason": None,
        "outcome": WAITING,
    }

"""Recorded predictions, with their labels where known.

    predictions = platform.predictions
    window = predictions.window("churn", last=5_000)                      # the newest predictions
    labelled = predictions.window("churn", labelled=True, last=2_000)     # the newest labels

Ingest writes predictions (`tidemill.loop.ingest`), `tidemill.stores.predictions.feedback` writes
labels. The two tables are joined when they are read, so neither is ever rewritten.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    func,
    literal_column,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite

from tidemill.errors import RequestError
from tidemill.serving.journal.record_types import JournalRecord
from tidemill.signature import Signature
from tidemill.stores.database.database import Database
from tidemill.stores.database.queries import MAX_LIMIT, ResultPage, conditions
from tidemill.stores.database.tables import feedback, predictions, served_versions
from tidemill.stores.predictions.prediction_rows import PredictionRow, insert_rows, rows_from_record
from tidemill.stores.predictions.windows import Window, decode_row, make_window

CHAMPION = "champion"
VersionKey = tuple[str, str]

_JOINED = feedback.c.outcome == literal_column("'joined'")  # a parameter would miss the index
LABEL = and_(feedback.c.prediction_id == predictions.c.id, _JOINED)
_MODEL, _TIME = predictions.c.model, predictions.c.time
_PREDICTION = (
    predictions.c.id, _TIME, predictions.c.version, predictions.c.role, predictions.c.encoding,
    predictions.c.features, predictions.c.output, predictions.c.probabilities,
    predictions.c.confidence, predictions.c.weight,
)  # fmt: skip
_TRUTH = (feedback.c.actual, feedback.c.joined)


@dataclass(frozen=True)
class _Filter:
    """The predictions that a window holds; see `Predictions.window`."""

    model: str
    version: str | None
    role: str | None
    since: float | None
    until: float | None
    labelled: bool
    labelled_since: float | None


class Predictions:
    """Reads the table `predictions`; `add` and `insert` write to it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def analyze(self) -> None:
        """Update PostgreSQL's table statistics now, rather than when autovacuum next runs."""
        if self._database.dialect == "postgresql":
            with self._database.write() as connection:
                connection.execute(text("ANALYZE predictions, feedback"))

    def window(
        self,
        model: str,
        *,
        version: str | None = None,
        role: str | None = CHAMPION,
        since: float | None = None,
        until: float | None = None,
        last: int | None = None,
        first: int | None = None,
        labelled: bool = False,
        labelled_since: float | None = None,
    ) -> Window:
        """Return predictions of a model, oldest first.

        Args:
            version: Only predictions of this version; None for all.
            role: Only predictions in this role; None for all.
            since, until: Inclusive and exclusive, in seconds since the epoch.
            last: At most so many: the newest predictions, or with `labelled` those whose labels
                were joined last.
            first: At most so many: the oldest predictions, or with `labelled` those whose labels
                were joined first. Not together with `last`.
            labelled: Only predictions whose label is known.
            labelled_since: Only predictions whose label was joined then or later (inclusive:
                several labels share a time); implies `labelled`.
        """
        labelled = labelled or labelled_since is not None
        kept = _Filter(model, version, role, since, until, labelled, labelled_since)
        found = _select(_PREDICTION, kept)
        query, column = found, found.selected_columns
        order = column["joined" if labelled else "time"]
        if last is not None:
            query = found.order_by(order.desc(), column["id"].desc()).limit(last)
        elif first is not None:
            query = found.order_by(order, column["time"], column["id"]).limit(first)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        rows = sorted(rows, key=lambda row: (row[1], row[0]))
        return make_window(model, rows, self.signatures(model))

    def count(
        self,
        model: str,
        *,
        version: str | None = None,
        role: str | None = CHAMPION,
        since: float | None = None,
        until: float | None = None,
        labelled: bool = False,
        labelled_since: float | None = None,
    ) -> int:
        """Return how many predictions a window would hold; arguments as in `window`."""
        labelled = labelled or labelled_since is not None
        kept = _Filter(model, version, role, since, until, labelled, labelled_since)
        query = select(func.count()).select_from(_select((predictions.c.id,), kept).subquery())
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def latencies(
        self, model: str, *, role: str, version: str, since: float, last: int
    ) -> NDArray[np.float64]:
        """Return the latencies of a version's newest predictions, newest first [rows], in ms."""
        latency = predictions.c.milliseconds
        where = _where(model, version, role, since)
        query = select(latency).where(*where, latency.is_not(None))
        query = query.order_by(_TIME.desc()).limit(last)
        return np.array([row["milliseconds"] for row in self._database.rows(query)], np.float64)

    def models(self) -> list[str]:
        """Return the names of all models with stored predictions, now or earlier."""
        query = select(served_versions.c.model).distinct().order_by(served_versions.c.model)
        return [row["model"] for row in self._database.rows(query)]

    def signatures(self, model: str) -> dict[str, Signature]:
        """Return the known signatures of a model's versions, by version."""
        query = select(served_versions).where(served_versions.c.model == model)
        return {
            row["version"]: msgspec.convert(row["signature"], Signature)
            for row in self._database.rows(query)
            if row["signature"] is not None
        }

    def versions(self, model: str) -> list[str]:
        """Return the versions of a model with stored predictions, now or earlier."""
        query = select(served_versions.c.version).where(served_versions.c.model == model)
        return [row["version"] for row in self._database.rows(query)]

    def chunks(
        self, model: str, *, since: float, until: float, size: int
    ) -> Iterator[list[tuple[Any, ...]]]:
        """Yield all predictions of a period, in every role, oldest first, in lists of `size` rows.

        Each row has the fields of a window (`windows.FIELDS`), then its milliseconds, request id
        and key id.
        """
        more = (predictions.c.milliseconds, predictions.c.request_id, predictions.c.key_id)
        query = _join_labels(select(*_PREDICTION, *_TRUTH, *more), labelled=False)
        query = query.where(*_where(model, None, None, since, until))
        with self._database.read() as connection:
            found = connection.execution_options(yield_per=size).execute(query.order_by(_TIME))
            for part in found.partitions():
                yield [tuple(row) for row in part]

    def page(
        self,
        *,
        model: str | None = None,
        version: str | None = None,
        role: str | None = None,
        since: float | None = None,
        until: float | None = None,
        labelled: bool = False,
        limit: int = 50,
        cursor: str | None = None,
    ) -> ResultPage[dict[str, Any]]:
        """Return a page of decoded predictions with their labels, newest first.

        Raises:
            RequestError: The cursor is not one of this list.
        """
        limit = max(1, min(limit, MAX_LIMIT))
        query = _join_labels(select(predictions, *_TRUTH), labelled=labelled)
        query = query.where(*_where(model, version, role, since, until))
        # Ids sort by time; without a model only they have an index.
        keys = (predictions.c.id,) if model is None else (_TIME, predictions.c.id)
        if cursor is not None:
            query = query.where(tuple_(*keys) < _parse_cursor(cursor)[-len(keys) :])
        found = self._database.rows(query.order_by(*(k.desc() for k in keys)).limit(limit + 1))
        rows = found[:limit]
        more = len(found) > limit
        last = f"{rows[-1]['time']!r}~{rows[-1]['id']}" if more else None
        return ResultPage(self._decoded(rows), last)

    def get(self, id: str) -> list[dict[str, Any]]:
        """Return the prediction with an id, and those of challengers for the same request."""
        query = _join_labels(select(predictions, *_TRUTH), labelled=False)
        return self._decoded(self._database.rows(query.where(predictions.c.id == id)))

    def _decoded(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        known = {model: self.signatures(model) for model in {row["model"] for row in rows}}
        return [decode_row(row, known[row["model"]].get(row["version"])) for row in rows]

    def add(
        self,
        records: Iterable[JournalRecord],
        signatures: Mapping[VersionKey, Signature | None] | None = None,
    ) -> int:
        """Store records and return how many rows were new. Ingest calls `insert` instead.

        Args:
            signatures: By (model, version); signatures not given are not changed.
        """
        rows = [row for record in records for row in rows_from_record(record)]
        served: dict[VersionKey, Signature | None] = {(r.model, r.version): None for r in rows}
        with self._database.write() as connection:
            return self.insert(connection, rows, served | dict(signatures or {}))

    def insert(
        self,
        connection: Connection,
        rows: list[PredictionRow],
        signatures: Mapping[VersionKey, Signature | None],
    ) -> int:
        """Store rows in the caller's transaction and return how many were new.

        Args:
            signatures: By (model, version); each of these versions is recorded as served.
        """
        for (model, version), signature in sorted(signatures.items(), key=lambda item: item[0]):
            _record_version(connection, model, version, signature)
        return insert_rows(connection, rows)


def _join_labels(query: Select[Any], *, labelled: bool) -> Select[Any]:
    return query.select_from(predictions).join(feedback, LABEL, isouter=not labelled)


def _select(columns: Sequence[ColumnElement[Any]], kept: _Filter) -> Select[Any]:
    """Select predictions with their labels, in a form for which every planner picks a good plan.

    Both tables have a column for the model. If a query restricts both, PostgreSQL may scan all
    predictions of the model for each label, as long as it has no statistics of a new table. So the
    query finds labels first and their predictions by id, or the predictions of a period first and
    their labels by id.
    """
    query = _join_labels(select(*columns, *_TRUTH), labelled=kept.labelled)
    where = _where(kept.model, kept.version, kept.role, kept.since, kept.until)
    if not kept.labelled:
        return query.where(*where)
    if kept.since is None or kept.labelled_since is not None:
        query = query.where(feedback.c.model == kept.model)
        if kept.labelled_since is not None:
            query = query.where(feedback.c.joined >= kept.labelled_since)
        return query.where(*_where(None, kept.version, kept.role, kept.since, kept.until))
    period = select(*columns).where(*where).cte("period").prefix_with("MATERIALIZED")
    on = and_(feedback.c.prediction_id == period.c.id, _JOINED)
    return select(*period.c, *_TRUTH).join_from(period, feedback, on)


def _where(
    model: str | None,
    version: str | None,
    role: str | None,
    since: float | None = None,
    until: float | None = None,
) -> tuple[ColumnElement[bool], ...]:
    equal = {_MODEL: model, predictions.c.version: version, predictions.c.role: role}
    return conditions(equal, time=_TIME, since=since, until=until)


def _parse_cursor(cursor: str) -> tuple[float, str]:
    time, separator, id = cursor.partition("~")
    try:
        return float(time), id if separator else ""
    except ValueError:
        raise RequestError(
            f"'{cursor}' is not a cursor of this list.",
            field="cursor",
            expected="the `next` of the previous page",
        ) from None


def _record_version(
    connection: Connection, model: str, version: str, signature: Signature | None
) -> None:
    """Record that the version was served, and its signature if it is known."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    row = {"model": model, "version": version, "first_seen": time.time()}
    if signature is None:
        connection.execute(insert(served_versions).values(row).on_conflict_do_nothing())
        return
    known = {"signature": msgspec.to_builtins(signature)}
    statement = insert(served_versions).values(row | known)
    keys = ["model", "version"]
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=known))

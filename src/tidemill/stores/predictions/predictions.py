"""Predictions that were answered, with their labels where these are known.

    predictions = platform.predictions
    window = predictions.window("churn", last=5_000)                      # what was asked lately
    labelled = predictions.window("churn", labelled=True, last=2_000)     # the newest labels

Ingest writes them (`tidemill.loop.ingest.process`), labels come through
`tidemill.stores.predictions.feedback`; the two
tables are joined when they are read, so that neither is ever rewritten.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    any_,
    cast,
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
from tidemill.stores.database.pages import MAX_LIMIT, ResultPage
from tidemill.stores.database.tables import feedback, predictions, served_versions
from tidemill.stores.predictions.prediction_rows import PredictionRow, insert_rows, rows_from_record
from tidemill.stores.predictions.windows import Window, decode_row, make_window

CHAMPION = "champion"
VersionKey = tuple[str, str]

_JOINED = feedback.c.outcome == literal_column("'joined'")  # a parameter would miss the index
LABEL = and_(feedback.c.prediction_id == predictions.c.id, _JOINED)
_MODEL, _TIME = predictions.c.model, predictions.c.time
_ASKED = (
    predictions.c.id, _TIME, predictions.c.version, predictions.c.role, predictions.c.encoding,
    predictions.c.features, predictions.c.output, predictions.c.probabilities,
    predictions.c.confidence, predictions.c.weight,
)  # fmt: skip
_LEARNED = (feedback.c.actual, feedback.c.joined)
_WINDOW = (*_ASKED, *_LEARNED)


class Predictions:
    """Reads the table `predictions`; `add` and `insert` write to it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def analyze(self) -> None:
        """Have PostgreSQL count what the tables hold, which it does by itself in a minute or so."""
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
        """Predictions of a model, oldest first.

        Args:
            version: Only this version's; None takes all.
            role: Only answers given in this role; None takes all.
            since, until: From then on, and before then, in seconds since the epoch.
            last: At most so many: the newest predictions, or with `labelled` those whose labels
                came last.
            first: At most so many: the oldest predictions, or with `labelled` those whose labels
                came first. Not together with `last`.
            labelled: Only predictions whose label is known.
            labelled_since: Only those whose label has been known since then or later (inclusive:
                several labels share a time); means `labelled`.
        """
        labelled = labelled or labelled_since is not None
        found = _found(_ASKED, model, version, role, since, until, labelled, labelled_since)
        query, column = found, found.selected_columns
        moment = column["joined" if labelled else "time"]
        if last is not None:
            query = found.order_by(moment.desc(), column["id"].desc()).limit(last)
        elif first is not None:
            query = found.order_by(moment, column["time"], column["id"]).limit(first)
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
        """How many predictions such a window would hold; arguments as in `window`."""
        labelled = labelled or labelled_since is not None
        ids = (predictions.c.id,)
        found = _found(ids, model, version, role, since, until, labelled, labelled_since)
        query = select(func.count()).select_from(found.subquery())
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def latencies(
        self, model: str, *, role: str, version: str, since: float, last: int
    ) -> NDArray[np.float64]:
        """Milliseconds of the newest answers of a version in a role, newest first [rows]."""
        took = predictions.c.milliseconds
        where = _where(model, version, role, since, None, None)
        query = select(took).where(*where, took.is_not(None)).order_by(_TIME.desc()).limit(last)
        return np.array([row["milliseconds"] for row in self._database.rows(query)], np.float64)

    def models(self) -> list[str]:
        """The models that predictions were ever stored of, by name."""
        query = select(served_versions.c.model).distinct().order_by(served_versions.c.model)
        return [row["model"] for row in self._database.rows(query)]

    def signatures(self, model: str) -> dict[str, Signature]:
        """The known signatures of a model's versions, by version."""
        query = select(served_versions).where(served_versions.c.model == model)
        return {
            row["version"]: msgspec.convert(row["signature"], Signature)
            for row in self._database.rows(query)
            if row["signature"] is not None
        }

    def versions(self, model: str) -> list[str]:
        """The versions of a model that predictions were ever stored of."""
        query = select(served_versions.c.version).where(served_versions.c.model == model)
        return [row["version"] for row in self._database.rows(query)]

    def chunks(
        self, model: str, *, since: float, until: float, size: int
    ) -> Iterator[list[tuple[Any, ...]]]:
        """All predictions of a period, in every role, oldest first, so many rows at a time.

        Each row has a window's fields (`windows.FIELDS`), and behind them its milliseconds, request
        id and key id.
        """
        more = (predictions.c.milliseconds, predictions.c.request_id, predictions.c.key_id)
        query = _selected(select(*_WINDOW, *more), False)
        query = query.where(*_where(model, None, None, since, until, None))
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
        """Predictions with their labels for people to look at, newest first.

        Raises:
            RequestError: The cursor is none that this list gave.
        """
        limit = max(1, min(limit, MAX_LIMIT))
        query = _selected(select(predictions, feedback.c.actual, feedback.c.joined), labelled)
        query = query.where(*_where(model, version, role, since, until, None))
        # Ids sort by time, and where no model is named their index is the one there is.
        keys = (predictions.c.id,) if model is None else (_TIME, predictions.c.id)
        if cursor is not None:
            query = query.where(tuple_(*keys) < _place(cursor)[-len(keys) :])
        found = self._database.rows(query.order_by(*(k.desc() for k in keys)).limit(limit + 1))
        shown = found[:limit]
        more = len(found) > limit
        last = f"{shown[-1]['time']!r}~{shown[-1]['id']}" if more else None
        return ResultPage(self._readable(shown), last)

    def get(self, id: str) -> list[dict[str, Any]]:
        """The row of a prediction id, and those of challengers that answered the same."""
        query = _selected(select(predictions, feedback.c.actual, feedback.c.joined), False)
        return self._readable(self._database.rows(query.where(predictions.c.id == id)))

    def _readable(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows with plain values in place of bytes and JSON."""
        known = {model: self.signatures(model) for model in {row["model"] for row in rows}}
        return [decode_row(row, known[row["model"]].get(row["version"])) for row in rows]

    def add(
        self,
        records: Iterable[JournalRecord],
        signatures: Mapping[VersionKey, Signature | None] | None = None,
    ) -> int:
        """Store records; how many rows were new. Ingest uses `insert` in its own transaction.

        Args:
            signatures: By (model, version); those that are not given stay as they are.
        """
        rows = [row for record in records for row in rows_from_record(record)]
        seen: dict[VersionKey, Signature | None] = {(r.model, r.version): None for r in rows}
        with self._database.write() as connection:
            return self.insert(connection, rows, seen | dict(signatures or {}))

    def insert(
        self,
        connection: Connection,
        rows: list[PredictionRow],
        signatures: Mapping[VersionKey, Signature | None],
    ) -> int:
        """Store rows in the caller's transaction; how many were new.

        Args:
            signatures: Of the versions that are to be noted, by (model, version).
        """
        for (model, version), signature in sorted(signatures.items(), key=lambda item: item[0]):
            _note(connection, model, version, signature)
        return insert_rows(connection, rows)


def _selected(query: Select[Any], labelled: bool) -> Select[Any]:
    return query.select_from(predictions).join(feedback, LABEL, isouter=not labelled)


def _found(
    asked: Sequence[ColumnElement[Any]],
    model: str,
    version: str | None,
    role: str | None,
    since: float | None,
    until: float | None,
    labelled: bool,
    labelled_since: float | None,
) -> Select[Any]:
    """Predictions with their labels, in a form that leaves a planner one good way.

    Both tables name the model. If a query does so for both, PostgreSQL may, as long as it has no
    statistics of a new table, look through all predictions of the model for each label. So labels
    are found first and their predictions by id, or predictions of a period and their labels by id.
    """
    if not labelled:
        query = _selected(select(*asked, *_LEARNED), labelled)
        return query.where(*_where(model, version, role, since, until, None))
    if since is None or labelled_since is not None:
        query = _selected(select(*asked, *_LEARNED), labelled).where(feedback.c.model == model)
        return query.where(*_where(None, version, role, since, until, labelled_since))
    where = _where(model, version, role, since, until, None)
    period = select(*asked).where(*where).cte("period").prefix_with("MATERIALIZED")
    on = and_(feedback.c.prediction_id == period.c.id, _JOINED)
    return select(*period.c, *_LEARNED).join_from(period, feedback, on)


def _where(
    model: str | None,
    version: str | None,
    role: str | None,
    since: float | None,
    until: float | None,
    labelled_since: float | None,
) -> list[ColumnElement[bool]]:
    equal = {_MODEL: model, predictions.c.version: version, predictions.c.role: role}
    where = [column == value for column, value in equal.items() if value is not None]
    where += [] if since is None else [since <= _TIME]
    where += [] if until is None else [until > _TIME]
    where += [] if labelled_since is None else [feedback.c.joined >= labelled_since]
    return where


def matches_any(
    connection: Connection, column: ColumnElement[str], values: Sequence[str]
) -> ColumnElement[bool]:
    """Whether a text is one of many: a single parameter, however many there are."""
    if connection.dialect.name == "postgresql":
        return column == any_(cast(list(values), ARRAY(Text)))
    listed = func.json_each(msgspec.json.encode(list(values)).decode()).table_valued("value")
    return column.in_(select(listed.c.value))


def _place(cursor: str) -> tuple[float, str]:
    moment, mark, id = cursor.partition("~")
    try:
        return float(moment), id if mark else ""
    except ValueError:
        raise RequestError(
            f"'{cursor}' is not a cursor of this list.",
            field="cursor",
            expected="the `next` of the page before",
        ) from None


def _note(connection: Connection, model: str, version: str, signature: Signature | None) -> None:
    """Keep that the version was seen, and its signature if it is known."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    held = None if signature is None else msgspec.to_builtins(signature)
    row = {"model": model, "version": version, "first_seen": time.time()}
    statement = make(served_versions).values(row | ({} if held is None else {"signature": held}))
    if held is None:
        connection.execute(statement.on_conflict_do_nothing())
    else:
        keys = ["model", "version"]
        connection.execute(
            statement.on_conflict_do_update(index_elements=keys, set_={"signature": held})
        )

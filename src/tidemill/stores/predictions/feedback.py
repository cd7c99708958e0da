"""Labels: what turned out to be true, joined to the predictions by their ids.

Every label that arrives is one row of `feedback`, whatever comes of it:

    joined      it is the truth of its prediction
    waiting     no such prediction is here yet; it is judged when the prediction comes
    duplicate   the same label was joined before; nothing changes
    conflict    another label was joined before; the first stands, unless `replace` was asked for
    replaced    it was the truth until a label with `replace` corrected it
    refused     it does not fit the model's signature: another type, or a label it does not know
    expired     it waited in vain for `TIDEMILL_FEEDBACK_WAIT` seconds

Labels of one prediction are judged in the order in which they arrived, no matter when the
prediction itself arrives among them: that order alone decides what is true in the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, func, insert, literal_column, select, text, update

from tidemill.errors import InputError, RequestError
from tidemill.signature import Label, Signature
from tidemill.stores.database.database import Database, EpochNow
from tidemill.stores.database.pages import ResultPage, conditions, read_page
from tidemill.stores.database.tables import feedback, predictions, served_versions
from tidemill.stores.predictions.labels import coerce_label
from tidemill.stores.predictions.predictions import CHAMPION, matches_any

# Any number does, as long as nobody else in the database uses it.
LABEL_LOCK = 7_305_453
JOINED, WAITING, DUPLICATE, CONFLICT = "joined", "waiting", "duplicate", "conflict"
REPLACED, REFUSED, EXPIRED = "replaced", "refused", "expired"
MAX_ID, MAX_ACTUAL = 64, 1_000

_WAITS = feedback.c.outcome == literal_column("'waiting'")  # a parameter would miss the index
_STANDS = feedback.c.outcome == literal_column("'joined'")
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class NewLabel:
    """What turned out to be true for a prediction; `replace` corrects a label that was joined."""

    id: str
    actual: Label
    replace: bool = False


@dataclass(frozen=True)
class LabelResult:
    """What came of one label, and why where it did not become the truth."""

    id: str
    outcome: str
    reason: str | None = None


class Feedback:
    """The table `feedback`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, labels: Sequence[NewLabel], *, key_id: str | None = None) -> list[LabelResult]:
        """Take labels, all or none; what came of each, in order.

        Raises:
            RequestError: A label or an id is none; names its place. Nothing was stored.
            UnavailableError: The database cannot be reached; nothing was stored.
        """
        rows = [_row(place, label, key_id) for place, label in enumerate(labels)]
        if not rows:
            return []
        with self._database.write() as connection:
            lock_labels(connection)
            now = _now(connection)
            truths = decide_outcomes(connection, rows, now)
            for row in rows:
                row["time"] = now
            _retire(connection, [t["id"] for t in truths])
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
        """Labels with what came of them, newest first."""
        table = feedback.c
        equal = {table.model: model, table.outcome: outcome, table.prediction_id: prediction_id}
        where = conditions(equal, time=table.time, since=since, until=until)
        page = read_page(
            self._database, feedback, table.id, where=where, limit=limit, cursor=cursor
        )
        items = [{**row, "actual": msgspec.json.decode(row["actual"])} for row in page.items]
        return ResultPage(items, page.next)

    def counts(self, model: str | None = None) -> dict[str, int]:
        """How many labels there are by outcome."""
        query = select(feedback.c.outcome, func.count().label("labels"))
        if model is not None:
            query = query.where(feedback.c.model == model)
        rows = self._database.rows(query.group_by(feedback.c.outcome))
        return {row["outcome"]: row["labels"] for row in rows}

    def expire(self, before: float) -> int:
        """Give up on labels that have waited since before a moment; how many."""
        with self._database.write() as connection:
            lock_labels(connection)
            return connection.execute(
                update(feedback)
                .where(_WAITS, feedback.c.time < before)
                .values(outcome=EXPIRED, reason="No such prediction arrived in time.")
            ).rowcount


def join_waiting(connection: Connection, ids: Sequence[str]) -> int:
    """Judge the labels that waited for these predictions, which were stored in the caller's
    transaction; how many there were."""
    lock_labels(connection)
    if connection.execute(select(feedback.c.id).where(_WAITS).limit(1)).first() is None:
        return 0
    query = select(feedback).where(_WAITS, matches_any(connection, feedback.c.prediction_id, ids))
    found = connection.execute(query.order_by(feedback.c.id)).mappings()
    rows = [dict(row) for row in found]
    if not rows:
        return 0
    _retire(connection, [t["id"] for t in decide_outcomes(connection, rows, _now(connection))])
    names = ("model", "actual", "joined", "outcome", "reason")
    changes: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
    statement = update(feedback).where(feedback.c.id == bindparam("row")).values(changes)
    connection.execute(
        statement, [{"row": r["id"], **{f"new_{n}": r[n] for n in names}} for r in rows]
    )
    return len(rows)


def lock_labels(connection: Connection) -> None:
    """Be the only one who judges labels until the transaction ends.

    Without it, a label could be found to wait while its prediction is being stored, and the
    prediction without labels while the label is. On SQLite every writer is alone already.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LABEL_LOCK})"))


def decide_outcomes(
    connection: Connection, rows: Sequence[dict[str, Any]], now: float
) -> list[dict[str, Any]]:
    """Fill in what comes of each label, in order.

    Returns:
        The rows of the database that are the truth no longer.
    """
    ids = list(dict.fromkeys(row["prediction_id"] for row in rows))
    known = _known(connection, ids)
    truths = _truths(connection, ids)
    stored = list(truths.values())
    for row in rows:
        _judge(row, known.get(row["prediction_id"]), truths, now)
    return [row for row in stored if row["outcome"] == REPLACED]


def _judge(
    row: dict[str, Any],
    known: tuple[str, Signature | None] | None,
    truths: dict[str, dict[str, Any]],
    now: float,
) -> None:
    if known is None:
        row["outcome"] = WAITING
        return
    row["model"], signature = known
    truth = truths.get(row["prediction_id"])
    try:
        row["actual"] = _canonical(row["actual"], signature)
    except InputError as error:
        row["outcome"] = REFUSED
        row["reason"] = f"{error.detail} Expected {error.expected}."
        return
    if truth is not None and truth["actual"] == row["actual"]:
        row["outcome"] = DUPLICATE
    elif truth is not None and not row["replaces"]:
        row["outcome"] = CONFLICT
        row["reason"] = f"The label {truth['actual'][:60]} was joined before."
    else:
        if truth is not None:
            truth["outcome"] = REPLACED
        row["outcome"], row["joined"] = JOINED, now
        truths[row["prediction_id"]] = row


def _canonical(actual: str, signature: Signature | None) -> str:
    if signature is None:
        return actual
    return _encode(coerce_label(msgspec.json.decode(actual), signature)).decode()


def _known(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[str, Signature | None]]:
    """The model of each prediction that is here, and the signature of the version that answered."""
    p, v = predictions.c, served_versions.c
    query = select(p.id, p.model, p.version).where(matches_any(connection, p.id, ids))
    # Of several answers to one request the champion's is the last, and counts.
    found = connection.execute(query.order_by(p.role == CHAMPION, p.version)).all()
    models = sorted({model for _, model, _ in found})
    held = connection.execute(
        select(v.model, v.version, v.signature).where(v.model.in_(models))
    ).all()
    signatures = {
        (model, version): msgspec.convert(signature, Signature)
        for model, version, signature in held
        if signature is not None
    }
    return {id: (model, signatures.get((model, version))) for id, model, version in found}


def _truths(connection: Connection, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    query = select(feedback).where(_STANDS, matches_any(connection, feedback.c.prediction_id, ids))
    return {row["prediction_id"]: dict(row) for row in connection.execute(query).mappings()}


def _retire(connection: Connection, ids: Sequence[int]) -> None:
    if ids:
        statement = update(feedback).where(feedback.c.id == bindparam("row"))
        connection.execute(statement.values(outcome=REPLACED), [{"row": id} for id in ids])


def _now(connection: Connection) -> float:
    return float(connection.execute(EpochNow().select()).scalar_one())


def _row(place: int, label: NewLabel, key_id: str | None) -> dict[str, Any]:
    return {
        "prediction_id": _checked_id(place, label.id),
        "actual": _checked_actual(place, label.actual),
        "replaces": label.replace,
        "key_id": key_id,
        "model": None,
        "joined": None,
        "reason": None,
        "outcome": WAITING,
    }


def _checked_id(place: int, id: str) -> str:
    if not id or len(id) > MAX_ID or not id.isprintable():
        raise RequestError(
            f"Label {place} has an id that no prediction has.",
            field=f"{place}.id",
            expected="the `id` of an answer; for a row of a batch `<id>-<row>`",
        )
    return id


def _checked_actual(place: int, actual: Any) -> str:
    if isinstance(actual, str) or _is_bounded(actual):
        try:
            held = _encode(actual).decode()
        except (OverflowError, UnicodeEncodeError):
            held = ""
        if 0 < len(held) <= MAX_ACTUAL:
            return held
    raise RequestError(
        f"Label {place} is no label or number.",
        field=f"{place}.actual",
        expected=f"a text, a finite number or a boolean of at most {MAX_ACTUAL} characters",
    )


def _is_bounded(actual: Any) -> bool:
    """Whether it is a number that every database and JSON reader takes."""
    if isinstance(actual, bool | int):
        return -(2**63) <= actual < 2**63
    return isinstance(actual, float) and math.isfinite(actual)

"""Joining labels to predictions: which label becomes the truth of a prediction.

Every label that arrives is one row of `feedback`, with one of these outcomes:

    joined      it is the truth of its prediction
    waiting     its prediction has not arrived yet; decided when it does
    duplicate   the same label was joined before; nothing changes
    conflict    another label was joined before, which stands unless `replace` is set
    replaced    it was the truth until a label with `replace` corrected it
    refused     it does not fit the model's signature: another type, or an unknown label
    expired     its prediction did not arrive within `TIDEMILL_FEEDBACK_WAIT` seconds

The labels of a prediction are decided in the order in which they arrived, whenever the prediction
itself arrives: that order alone determines which label is the truth in the end. See decision 092.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, literal_column, select, text, update

from tidemill.errors import InputError
from tidemill.signature import Signature
from tidemill.stores.database.database import EpochNow
from tidemill.stores.database.queries import matches_any
from tidemill.stores.database.tables import feedback, predictions, served_versions
from tidemill.stores.predictions.labels import coerce_label
from tidemill.stores.predictions.predictions import CHAMPION

# An arbitrary number that nothing else in the database uses.
LABEL_LOCK = 7_305_453
JOINED, WAITING, DUPLICATE, CONFLICT = "joined", "waiting", "duplicate", "conflict"
REPLACED, REFUSED, EXPIRED = "replaced", "refused", "expired"

#: Conditions as literal SQL: with a parameter the partial indexes would not be used.
IS_WAITING = feedback.c.outcome == literal_column("'waiting'")
_IS_JOINED = feedback.c.outcome == literal_column("'joined'")
_encode = msgspec.json.Encoder().encode


def lock_labels(connection: Connection) -> None:
    """Be the only one to decide about labels until the transaction ends.

    Otherwise a label could be stored as waiting while its prediction is stored as having no labels.
    On SQLite a writing transaction already excludes all others.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LABEL_LOCK})"))


def join_waiting(connection: Connection, ids: Sequence[str]) -> int:
    """Decide about labels that waited for predictions stored in the caller's transaction.

    Args:
        ids: Of the predictions.

    Returns:
        How many labels were waiting.
    """
    lock_labels(connection)
    if connection.execute(select(feedback.c.id).where(IS_WAITING).limit(1)).first() is None:
        return 0
    query = select(feedback).where(
        IS_WAITING, matches_any(connection, feedback.c.prediction_id, ids)
    )
    found = connection.execute(query.order_by(feedback.c.id)).mappings()
    rows = [dict(row) for row in found]
    if not rows:
        return 0
    decide_outcomes(connection, rows, database_now(connection))
    names = ("model", "actual", "joined", "outcome", "reason")
    changes: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
    statement = update(feedback).where(feedback.c.id == bindparam("row")).values(changes)
    connection.execute(
        statement, [{"row": r["id"], **{f"new_{n}": r[n] for n in names}} for r in rows]
    )
    return len(rows)


def decide_outcomes(connection: Connection, rows: Sequence[dict[str, Any]], now: float) -> None:
    """Fill in the outcomes of label rows, in order, and mark stored labels that they replace."""
    ids = list(dict.fromkeys(row["prediction_id"] for row in rows))
    known = _answered_by(connection, ids)
    truths = _truths(connection, ids)
    stored = list(truths.values())
    for row in rows:
        _decide(row, known.get(row["prediction_id"]), truths, now)
    replaced = [{"row": row["id"]} for row in stored if row["outcome"] == REPLACED]
    if replaced:
        statement = update(feedback).where(feedback.c.id == bindparam("row"))
        connection.execute(statement.values(outcome=REPLACED), replaced)


def database_now(connection: Connection) -> float:
    """Return the database's clock, in seconds since the epoch."""
    return float(connection.execute(EpochNow().select()).scalar_one())


def _decide(
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


def _answered_by(
    connection: Connection, ids: Sequence[str]
) -> dict[str, tuple[str, Signature | None]]:
    """Return the model of each stored prediction, and the signature of the version it is from."""
    p, v = predictions.c, served_versions.c
    query = select(p.id, p.model, p.version).where(matches_any(connection, p.id, ids))
    # Of several answers to one request the champion's comes last and wins.
    found = connection.execute(query.order_by(p.role == CHAMPION, p.version)).all()
    models = sorted({model for _, model, _ in found})
    stored = connection.execute(
        select(v.model, v.version, v.signature).where(v.model.in_(models))
    ).all()
    signatures = {
        (model, version): msgspec.convert(signature, Signature)
        for model, version, signature in stored
        if signature is not None
    }
    return {id: (model, signatures.get((model, version))) for id, model, version in found}


def _truths(connection: Connection, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    query = select(feedback).where(
        _IS_JOINED, matches_any(connection, feedback.c.prediction_id, ids)
    )
    return {row["prediction_id"]: dict(row) for row in connection.execute(query).mappings()}

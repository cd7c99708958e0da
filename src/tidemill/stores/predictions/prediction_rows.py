"""Converts journal records to rows of the table `predictions`, and inserts many rows at once."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, OperationalError

from tidemill.serving.journal.record_types import JournalRecord

encode = msgspec.json.Encoder().encode
NUMBER_BYTES = {"f4": 4, "f8": 8}
#: Requests with such an id come from API monitoring; their role excludes them from windows.
PROBE_PREFIX = "tidemill-probe-"
PROBE = "probe"
MAX_ID = 52  # leaves room for "-" and the number of the row in its batch


class PredictionRow(NamedTuple):
    """A row of `predictions`, in the order of the table's columns."""

    id: str
    version: str
    time: float
    model: str
    role: str
    encoding: str
    features: bytes | None
    output: str
    probabilities: bytes | None
    confidence: float | None
    milliseconds: float
    weight: float
    request_id: str | None
    key_id: str | None


_COLUMNS = ", ".join(PredictionRow._fields)
_MARKS = ", ".join("?" * len(PredictionRow._fields))
_SQLITE = f"INSERT OR IGNORE INTO predictions ({_COLUMNS}) VALUES ({_MARKS})"


def rows_from_record(record: JournalRecord) -> list[PredictionRow]:
    """Return the rows of a record: one, or one for each row of a batch.

    Raises:
        ValueError: The record is inconsistent, or has a value that does not fit its column.
    """
    if record.rows == 1 and record.encoding in NUMBER_BYTES:
        return [_single(record)]
    _check(record)
    outputs = [encode(label).decode() for label in record.predictions]
    inputs = list(_inputs(record))
    probabilities = _split(record.probabilities, record.rows)
    return [
        _row(record, id, inputs[i], outputs[i], probabilities[i])
        for i, id in enumerate(record.row_ids())
    ]


def insert_rows(connection: Connection, rows: Sequence[PredictionRow]) -> int:
    """Insert rows in the caller's transaction, skipping ids that exist.

    Returns:
        How many rows were new.
    """
    if not rows:
        return 0
    if connection.dialect.name == "postgresql":
        return _copy(connection, rows)
    return connection.exec_driver_sql(_SQLITE, list(rows)).rowcount


def _single(record: JournalRecord) -> PredictionRow:
    """The most common case: up to 50,000 records a second."""
    _check(record)
    output = encode(record.predictions[0]).decode()
    return _row(record, record.id, record.features, output, record.probabilities)  # type: ignore[arg-type]


def _row(
    record: JournalRecord, id: str, features: bytes | None, output: str, probabilities: bytes | None
) -> PredictionRow:
    role, request_id = record.role, record.request_id
    if request_id is not None and request_id.startswith(PROBE_PREFIX):
        role = PROBE
    return PredictionRow(
        id, record.version, record.time, record.model, role, record.encoding, features,
        output, probabilities, max(array("f", probabilities)) if probabilities else None,
        record.latency * 1000.0, 1.0 / record.sample, request_id, record.key_id,
    )  # fmt: skip


def _check(record: JournalRecord) -> None:
    if record.rows < 1 or len(record.predictions) != record.rows:
        raise ValueError(f"{len(record.predictions)} predictions for {record.rows} rows")
    _check_texts(record.model, record.version, record.role, record.key_id)
    _check_text("id", record.id, MAX_ID)
    if record.request_id is not None:
        _check_text("request_id", record.request_id, 128)
    if not 0 < record.sample <= 1:
        raise ValueError(f"its sampled share is {record.sample}, not between 0 and 1")
    probabilities = record.probabilities
    if probabilities is not None and len(probabilities) % (4 * record.rows):
        raise ValueError(f"{len(probabilities)} bytes of probabilities for {record.rows} rows")
    _check_features(record)


@lru_cache(maxsize=1_000)
def _check_texts(model: str, version: str, role: str, key_id: str | None) -> None:
    """Check the texts that are the same in many records; results are cached."""
    for name, text, limit in (("model", model, 255), ("version", version, 64), ("role", role, 16)):
        _check_text(name, text, limit)
    _check_text("key_id", key_id or "", 64)


def _check_text(name: str, text: str, limit: int) -> None:
    if len(text) > limit or "\0" in text:
        raise ValueError(f"its {name} is longer than {limit} characters or contains a zero byte")


def _check_features(record: JournalRecord) -> None:
    features = record.features
    if record.encoding in NUMBER_BYTES:
        size = NUMBER_BYTES[record.encoding] * record.rows
        if type(features) is not bytes or len(features) % size:
            raise ValueError(f"its inputs are not {record.rows} rows of {record.encoding} numbers")
    elif record.encoding == "values" and (
        type(features) is not list or len(features) != record.rows
    ):
        raise ValueError(f"its inputs are not a list of {record.rows} rows")


def _inputs(record: JournalRecord) -> Iterator[bytes | None]:
    features = record.features
    if record.encoding == "none" or features is None:
        return iter([None] * record.rows)
    if isinstance(features, bytes):
        return iter(_split(features, record.rows))
    return (encode(row) for row in features)


def _split(matrix: bytes | None, rows: int) -> list[bytes | None]:
    """Return the bytes of each row of a matrix."""
    if matrix is None:
        return [None] * rows
    size = len(matrix) // rows
    return [matrix[at * size : (at + 1) * size] for at in range(rows)]


def _copy(connection: Connection, rows: Sequence[PredictionRow]) -> int:
    import psycopg

    try:
        with connection.begin_nested():
            _copy_into(connection, "predictions", rows)
        return len(rows)
    except psycopg.errors.UniqueViolation:
        return _copy_new(connection, rows)


def _copy_new(connection: Connection, rows: Sequence[PredictionRow]) -> int:
    """Insert rows some of which exist, through a temporary table."""
    connection.exec_driver_sql(
        "CREATE TEMPORARY TABLE incoming ON COMMIT DROP AS SELECT * FROM predictions LIMIT 0"
    )
    _copy_into(connection, "incoming", rows)
    added = connection.exec_driver_sql(
        f"INSERT INTO predictions ({_COLUMNS}) SELECT {_COLUMNS} FROM incoming "
        "ON CONFLICT DO NOTHING"
    ).rowcount
    connection.exec_driver_sql("DROP TABLE incoming")
    return added


def _copy_into(connection: Connection, table: str, rows: Sequence[PredictionRow]) -> None:
    import psycopg

    raw: Any = connection.connection.driver_connection
    statement = f"COPY {table} ({_COLUMNS}) FROM STDIN (FORMAT BINARY)"
    try:
        _write_all(raw, statement, rows)
    except psycopg.errors.UniqueViolation:
        raise
    except psycopg.OperationalError as error:
        raise OperationalError(statement, None, error) from error
    except psycopg.Error as error:
        raise DBAPIError(statement, None, error) from error


def _write_all(raw: Any, statement: str, rows: Sequence[PredictionRow]) -> None:
    with raw.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:  # text, float and bytes, whose binary form fits the columns
            copy.write_row(row)

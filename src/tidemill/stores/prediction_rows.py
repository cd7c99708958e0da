"""Records of the journal as rows of the table `predictions`, and many of them into it at once."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection

from tidemill.serving.segments import Record

encode = msgspec.json.Encoder().encode
NUMBER_BYTES = {"f4": 4, "f8": 8}
_LIMITS = {"id": 52, "model": 255, "version": 64, "role": 16, "request_id": 128, "key_id": 64}


class Row(NamedTuple):
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


_TYPES = ["text", "text", "float8", "text", "text", "text", "bytea", "text", "bytea"]
_TYPES += ["float8", "float8", "float8", "text", "text"]
_COLUMNS = ", ".join(Row._fields)
_MARKS = ", ".join("?" * len(Row._fields))
_SQLITE = f"INSERT OR IGNORE INTO predictions ({_COLUMNS}) VALUES ({_MARKS})"


def rows_of(record: Record) -> list[Row]:
    """The rows of one record: one, or one for each row of a batch.

    Raises:
        ValueError: The record contradicts itself, or holds what no column takes; says what.
    """
    if record.rows == 1 and record.encoding in NUMBER_BYTES:
        return [_single(record)]
    _check(record)
    outputs = [encode(label).decode() for label in record.predictions]
    inputs, likely = list(_inputs(record)), _shares(record.probabilities, record.rows)
    return [
        _row(record, id, inputs[i], outputs[i], likely[i]) for i, id in enumerate(record.row_ids())
    ]


def insert_rows(connection: Connection, rows: Sequence[Row]) -> int:
    """Put rows into the table, in the caller's transaction; an id that is there stays as it is.

    Returns:
        How many were new.
    """
    if not rows:
        return 0
    if connection.dialect.name == "postgresql":
        return _copy(connection, rows)
    return connection.exec_driver_sql(_SQLITE, list(rows)).rowcount


def _single(record: Record) -> Row:
    """The commonest case, of which there may be 50,000 a second."""
    _check(record)
    output = encode(record.predictions[0]).decode()
    return _row(record, record.id, record.features, output, record.probabilities)  # type: ignore[arg-type]


def _row(record: Record, id: str, features: bytes | None, output: str, likely: bytes | None) -> Row:
    return Row(
        id, record.version, record.time, record.model, record.role, record.encoding, features,
        output, likely, max(array("f", likely)) if likely else None, record.latency * 1000.0,
        1.0 / record.sample, record.request_id, record.key_id,
    )  # fmt: skip


def _check(record: Record) -> None:
    if record.rows < 1 or len(record.predictions) != record.rows:
        raise ValueError(f"{len(record.predictions)} predictions for {record.rows} rows")
    for name, limit in _LIMITS.items():
        text = getattr(record, name)
        if text is not None and (len(text) > limit or "\0" in text):
            raise ValueError(f"its {name} is longer than {limit} characters, or holds a zero byte")
    if not 0 < record.sample <= 1:
        raise ValueError(f"its share is {record.sample}")
    likely = record.probabilities
    if likely is not None and len(likely) % (4 * record.rows):
        raise ValueError(f"{len(likely)} bytes of probabilities for {record.rows} rows")
    _check_features(record)


def _check_features(record: Record) -> None:
    held, size = record.features, NUMBER_BYTES.get(record.encoding)
    if size is not None and (not isinstance(held, bytes) or len(held) % (size * record.rows)):
        raise ValueError(f"its inputs are no {record.encoding} of {record.rows} rows")
    if record.encoding == "values" and (not isinstance(held, list) or len(held) != record.rows):
        raise ValueError(f"its inputs are no list of {record.rows} rows")


def _inputs(record: Record) -> Iterator[bytes | None]:
    held = record.features
    if record.encoding == "none" or held is None:
        return iter([None] * record.rows)
    if isinstance(held, bytes):
        return iter(_shares(held, record.rows))
    return (encode(row) for row in held)


def _shares(held: bytes | None, rows: int) -> list[bytes | None]:
    """The bytes of each row of a matrix."""
    if held is None:
        return [None] * rows
    size = len(held) // rows
    return [held[at * size : (at + 1) * size] for at in range(rows)]


def _copy(connection: Connection, rows: Sequence[Row]) -> int:
    import psycopg

    try:
        with connection.begin_nested():
            _copy_into(connection, "predictions", rows)
        return len(rows)
    except psycopg.errors.UniqueViolation:
        return _copy_new(connection, rows)


def _copy_new(connection: Connection, rows: Sequence[Row]) -> int:
    """The long way, for rows of which some are there already."""
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


def _copy_into(connection: Connection, table: str, rows: Sequence[Row]) -> None:
    raw: Any = connection.connection.driver_connection
    statement = f"COPY {table} ({_COLUMNS}) FROM STDIN (FORMAT BINARY)"
    with raw.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(_TYPES)
        for row in rows:
            copy.write_row(row)

"""Dumps all rows of a database as text and loads them, between any two kinds of database.

Each table is one file of JSON lines: the column names first, then a list for each row. A value that
JSON cannot represent is an object with one key: `$bytes` (base64), `$time` (ISO 8601) or `$number`
(text).
"""

from __future__ import annotations

import base64
import json
from datetime import datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from sqlalchemy import (
    Boolean,
    Connection,
    Integer,
    MetaData,
    Table,
    delete,
    func,
    insert,
    select,
    text,
)

from tidemill.errors import DataError
from tidemill.stores.database.database import Database

BATCH = 1_000


def write_dump(database: Database, folder: Path) -> dict[str, int]:
    """Write a consistent state of every table into the folder; return the rows by table."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    with database.snapshot() as connection:
        for table in _tables(connection):
            with (folder / f"{table.name}.jsonl").open("w", encoding="utf-8") as file:
                counts[table.name] = _write_table(connection, table, file)
    return counts


def read_dump(database: Database, folder: Path, *, keep: frozenset[str] = frozenset()) -> None:
    """Replace all rows of the database by those in the folder, in one transaction.

    Args:
        keep: Tables that are not changed, such as the one with the schema version.

    Raises:
        DataError: The folder has a table or column that the database lacks; nothing was changed.
    """
    with database.write() as connection:
        tables = [table for table in _tables(connection) if table.name not in keep]
        _check_known(folder, {table.name for table in tables} | keep)
        for table in reversed(tables):
            connection.execute(delete(table))
        for table in tables:
            path = folder / f"{table.name}.jsonl"
            if path.is_file():
                _read_table(connection, table, path)
            if database.dialect == "postgresql":
                _advance_sequences(connection, table)


def count_rows(database: Database, *names: str) -> int:
    """Return the total number of rows of the named tables; a missing table has none."""
    with database.read() as connection:
        tables = [table for table in _tables(connection) if table.name in names]
        counts = [select(func.count()).select_from(table) for table in tables]
        return sum(int(connection.execute(count).scalar_one()) for count in counts)


def _tables(connection: Connection) -> list[Table]:
    """Return every table, referenced tables before those that refer to them."""
    metadata = MetaData()
    metadata.reflect(connection)
    return list(metadata.sorted_tables)


def _write_table(connection: Connection, table: Table, file: TextIO) -> int:
    print(json.dumps([column.name for column in table.columns]), file=file)
    rows = connection.execution_options(yield_per=BATCH).execute(select(table))
    count = 0
    for row in rows:
        print(json.dumps(list(row), default=_encode, ensure_ascii=False), file=file)
        count += 1
    return count


def _read_table(connection: Connection, table: Table, path: Path) -> None:
    with path.open(encoding="utf-8") as file:
        names = json.loads(next(file))
        if unknown := set(names) - {column.name for column in table.columns}:
            raise DataError(f"The table {table.name} has no column {', '.join(unknown)} here.")
        booleans = {c.name for c in table.columns if isinstance(c.type, Boolean)}
        while texts := list(islice(file, BATCH)):
            rows = [json.loads(each, object_hook=_decode) for each in texts]
            connection.execute(insert(table), [_by_name(names, row, booleans) for row in rows])


def _by_name(names: list[str], row: list[Any], booleans: set[str]) -> dict[str, Any]:
    """Return the row by column name, with SQLite's 0 and 1 in boolean columns as booleans."""
    return {
        name: bool(value) if name in booleans and value is not None else value
        for name, value in zip(names, row, strict=True)
    }


def _check_known(folder: Path, known: frozenset[str] | set[str]) -> None:
    found = {path.stem for path in folder.glob("*.jsonl")}
    if unknown := found - known:
        raise DataError(
            f"The backup has tables that this database lacks: {', '.join(sorted(unknown))}.",
            remedy="Restore it with the version of Tidemill or MLflow that wrote it.",
        )


def _advance_sequences(connection: Connection, table: Table) -> None:
    """Continue the numbering of new rows after the numbers of the loaded rows."""
    for column in table.primary_key.columns:
        if isinstance(column.type, Integer):
            connection.execute(
                text(
                    "SELECT setval(name, coalesce(newest, 1), newest IS NOT NULL) FROM "
                    "(SELECT pg_get_serial_sequence(:table, :column) AS name, "
                    f'(SELECT max("{column.name}") FROM "{table.name}") AS newest) AS found '
                    "WHERE name IS NOT NULL"
                ),
                {"table": f'"{table.name}"', "column": column.name},
            )


def _encode(value: Any) -> dict[str, str]:
    if isinstance(value, bytes | memoryview):
        return {"$bytes": base64.b64encode(bytes(value)).decode()}
    if isinstance(value, datetime):
        return {"$time": value.isoformat()}
    if isinstance(value, Decimal):
        return {"$number": str(value)}
    raise TypeError(f"a database value of type {type(value).__name__}")


def _decode(value: dict[str, Any]) -> Any:
    match value:
        case {"$bytes": str(text), **rest} if not rest:
            return base64.b64decode(text)
        case {"$time": str(text), **rest} if not rest:
            return datetime.fromisoformat(text)
        case {"$number": str(text), **rest} if not rest:
            return Decimal(text)
    return value

"""All rows of a database as text, and back, between any two kinds of database.

One file of JSON lines a table: the names of the columns first, then a list a row. What JSON has no
word for is an object with one key: `$bytes` (base64), `$time` (ISO 8601) or `$number` (text).
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
    """Write every table into the folder, as of one moment; the number of rows by table."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    with database.snapshot() as connection:
        for table in _tables(connection):
            with (folder / f"{table.name}.jsonl").open("w", encoding="utf-8") as file:
                counts[table.name] = _write_table(connection, table, file)
    return counts


def read_dump(database: Database, folder: Path, *, leave: frozenset[str] = frozenset()) -> None:
    """Put the rows in the folder in place of all that the database holds, or change nothing.

    Args:
        leave: Tables that are not touched, such as the one that holds the schema's version.

    Raises:
        DataError: The folder has a table or column that the database lacks.
    """
    with database.write() as connection:
        tables = [table for table in _tables(connection) if table.name not in leave]
        _check_known(folder, {table.name for table in tables} | leave)
        for table in reversed(tables):
            connection.execute(delete(table))
        for table in tables:
            path = folder / f"{table.name}.jsonl"
            if path.is_file():
                _read_table(connection, table, path)
            if database.dialect == "postgresql":
                _advance_sequences(connection, table)


def count_rows(database: Database, *names: str) -> int:
    """How many rows the named tables hold together; a table that is absent holds none."""
    with database.read() as connection:
        tables = [table for table in _tables(connection) if table.name in names]
        counts = [select(func.count()).select_from(table) for table in tables]
        return sum(int(connection.execute(count).scalar_one()) for count in counts)


def _tables(connection: Connection) -> list[Table]:
    """Every table, those that others refer to first."""
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
            raise DataError(f"The table {table.name} here has no column {', '.join(unknown)}.")
        booleans = {c.name for c in table.columns if isinstance(c.type, Boolean)}
        while texts := list(islice(file, BATCH)):
            rows = [json.loads(each, object_hook=_decode) for each in texts]
            connection.execute(insert(table), [_fitted(names, row, booleans) for row in rows])


def _fitted(names: list[str], row: list[Any], booleans: set[str]) -> dict[str, Any]:
    """The row by name, with the numbers that SQLite keeps for true and false as what they mean."""
    return {
        name: bool(value) if name in booleans and value is not None else value
        for name, value in zip(names, row, strict=True)
    }


def _check_known(folder: Path, known: frozenset[str] | set[str]) -> None:
    found = {path.stem for path in folder.glob("*.jsonl")}
    if unknown := found - known:
        raise DataError(
            f"The backup holds tables that are not here: {', '.join(sorted(unknown))}.",
            remedy="Restore it with the version of Tidemill or MLflow that wrote it.",
        )


def _advance_sequences(connection: Connection, table: Table) -> None:
    """Let the database number new rows behind the ones that were put in with their numbers."""
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
        case {"$bytes": str(held), **rest} if not rest:
            return base64.b64decode(held)
        case {"$time": str(held), **rest} if not rest:
            return datetime.fromisoformat(held)
        case {"$number": str(held), **rest} if not rest:
            return Decimal(held)
    return value

"""Parts of queries that the stores share: pages, filters, and values that fit every database.

Pages are read by key, so that page 1,000 costs no more than page 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    Connection,
    Table,
    Text,
    any_,
    cast,
    func,
    select,
)

from tidemill.border import check_integer, check_text, storable
from tidemill.stores.database.database import Database

T = TypeVar("T")
MAX_LIMIT = 500


@dataclass(frozen=True)
class ResultPage(Generic[T]):
    """Some items, newest first, and the cursor of the next page; None on the last one."""

    items: list[T]
    next: str | None = None


def read_page(
    database: Database,
    table: Table,
    key: Column[Any],
    *,
    where: tuple[ColumnElement[bool], ...] = (),
    limit: int = 50,
    cursor: str | None = None,
) -> ResultPage[dict[str, Any]]:
    """Return one page of a table, by descending key.

    Args:
        limit: At most so many rows; between 1 and `MAX_LIMIT`.

    Raises:
        RequestError: The cursor is not one of this table.
    """
    limit = max(1, min(limit, MAX_LIMIT))
    query = select(table).where(*where).order_by(key.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(key < _key_value(key, cursor))
    found = database.rows(query)
    more = len(found) > limit
    return ResultPage(found[:limit], str(found[limit - 1][key.name]) if more else None)


def _key_value(key: Column[Any], cursor: str) -> Any:
    if key.type.python_type is int:
        return check_integer(cursor, "cursor")
    return check_text(cursor, "cursor")


def conditions(
    equal: Mapping[Column[Any], Any],
    *,
    time: Column[Any] | None = None,
    since: float | None = None,
    until: float | None = None,
) -> tuple[ColumnElement[bool], ...]:
    """Return the WHERE conditions of a list's filters; a filter that is None does not apply.

    Args:
        equal: The values that columns must have.
        time: The column that `since` (inclusive) and `until` (exclusive) apply to.
    """
    found = [column == value for column, value in equal.items() if value is not None]
    if time is not None:
        found += [] if since is None else [time >= since]
        found += [] if until is None else [time < until]
    return tuple(found)


def matches_any(
    connection: Connection, column: ColumnElement[str], values: Sequence[str]
) -> ColumnElement[bool]:
    """Return the condition that a text column has one of many values, as a single parameter."""
    if connection.dialect.name == "postgresql":
        return column == any_(cast(list(values), ARRAY(Text)))
    listed = func.json_each(msgspec.json.encode(list(values)).decode()).table_valued("value")
    return column.in_(select(listed.c.value))


def json_safe(value: Any) -> Any:
    """Return the value as every database can store it as JSON.

    NaN and infinity become null, NUL and half surrogate pairs U+FFFD.
    """
    if isinstance(value, Mapping):
        return {storable(str(name)): json_safe(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return storable(value)
    if value is None or isinstance(value, int):
        return value
    # numpy numbers, dates and paths
    return json_safe(value.item()) if hasattr(value, "item") else str(value)

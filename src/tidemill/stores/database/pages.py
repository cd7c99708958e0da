"""Reading long tables a page at a time, by key: page 1,000 costs what page 1 costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Column, ColumnElement, Table, select

from tidemill.errors import RequestError
from tidemill.stores.database.database import Database

T = TypeVar("T")
MAX_LIMIT = 500


@dataclass(frozen=True)
class ResultPage(Generic[T]):
    """Some items, newest first, and the cursor that gives the next ones; None at the end."""

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
    """One page of a table, by falling key.

    Raises:
        RequestError: The cursor is none that this table gave.
    """
    limit = max(1, min(limit, MAX_LIMIT))
    query = select(table).where(*where).order_by(key.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(key < _key_value(key, cursor))
    found = database.rows(query)
    more = len(found) > limit
    return ResultPage(found[:limit], str(found[limit - 1][key.name]) if more else None)


def _key_value(key: Column[Any], cursor: str) -> Any:
    try:
        return key.type.python_type(cursor)
    except ValueError:
        raise RequestError(
            f"'{cursor}' is not a cursor of this list.",
            field="cursor",
            expected="the `next` of the page before",
        ) from None


def json_safe(value: Any) -> Any:
    """The value as every database can keep it in JSON: no NaN, no infinity, no NUL."""
    if isinstance(value, Mapping):
        return {str(name): json_safe(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.replace("\0", "")
    if value is None or isinstance(value, int):
        return value
    # numpy's numbers, dates and paths
    return json_safe(value.item()) if hasattr(value, "item") else str(value)

"""How far each journal segment has been stored, which makes ingest exactly-once."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tidemill.stores.database.database import Database
from tidemill.stores.database.queries import matches_any
from tidemill.stores.database.tables import journal_offsets

#: A finished segment that reappears, from a backup for example, is recognised for this long.
OFFSET_SECONDS = 30 * 86400.0

_table = journal_offsets.c


def read_offsets(database: Database, names: Sequence[str]) -> dict[str, int]:
    """Return the offsets of segments by name; a segment not begun yet is absent."""
    with database.read() as connection:
        query = select(_table.segment, _table.offset)
        found = connection.execute(query.where(matches_any(connection, _table.segment, names)))
        return {row.segment: row.offset for row in found}


def advance_offset(connection: Connection, name: str, old: int, new: int) -> bool:
    """Move a segment's offset in the same transaction that stores the records in between.

    Returns:
        False if the offset is no longer `old`: another process has stored that part.
    """
    now = time.time()
    if old == 0:
        make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        row = {"segment": name, "offset": new, "updated": now}
        begun = make(journal_offsets).values(row).on_conflict_do_nothing()
        return connection.execute(begun.returning(_table.segment)).first() is not None
    here = (_table.segment == name, _table.offset == old)
    moved = update(journal_offsets).where(*here).values(offset=new, updated=now)
    return connection.execute(moved).rowcount == 1


def delete_stale_offsets(database: Database, present: Collection[str]) -> None:
    """Delete the offsets of segments that were finished long ago and are no longer in the folder.

    Args:
        present: Names of segments in the folder. Folders of other machines are not checked, so a
            segment there must not stay unread for longer than `OFFSET_SECONDS`.
    """
    with database.write() as connection:
        old = _table.updated < time.time() - OFFSET_SECONDS
        names = connection.execute(select(_table.segment).where(old)).scalars()
        gone = [name for name in names if name not in present]
        if gone:
            here = matches_any(connection, _table.segment, gone)
            connection.execute(delete(journal_offsets).where(here))

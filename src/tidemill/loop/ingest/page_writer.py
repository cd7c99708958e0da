"""Stores one page of a journal segment: its rows, its offset and the labels that waited for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, OperationalError

from tidemill.loop.ingest.signatures import SignatureLookup
from tidemill.serving.journal.record_types import JournalRecord
from tidemill.serving.journal.segments import SegmentPage
from tidemill.signature import Signature
from tidemill.stores.database.database import Database
from tidemill.stores.predictions.label_joins import join_waiting
from tidemill.stores.predictions.offsets import advance_offset
from tidemill.stores.predictions.prediction_rows import PredictionRow, rows_from_record
from tidemill.stores.predictions.predictions import Predictions, VersionKey

logger = logging.getLogger(__name__)
REFUSED_FILE = "rejected.jsonl"
REFUSED_MAX_BYTES = 16 << 20


@dataclass
class PageResult:
    """What storing a page did; it counts only once the transaction is committed."""

    rows: int = 0
    duplicates: int = 0
    refused: list[tuple[JournalRecord | PredictionRow, str]] = field(default_factory=list)
    recorded: dict[VersionKey, Signature | None] = field(default_factory=dict)


class PageWriter:
    """Stores pages, each in one transaction.

    Args:
        folder: The journal's folder, where records that cannot be stored are kept.
    """

    def __init__(self, database: Database, folder: Path, signatures: SignatureLookup) -> None:
        self._database = database
        self._predictions = Predictions(database)
        self._signatures = signatures
        self._refused = RefusedRecords(folder)
        self._recorded: dict[VersionKey, Signature | None] = {}

    def store(self, name: str, offset: int, page: SegmentPage) -> PageResult | None:
        """Store a page and the segment's new offset in one transaction.

        Args:
            name: The segment's file name.
            offset: The page's offset in the segment, in bytes.

        Returns:
            None if another process has stored the page already.
        """
        result = PageResult()
        rows = list(_rows(page.records, result))
        with self._database.write() as connection:
            if not advance_offset(connection, name, offset, page.next_offset):
                return None
            self._insert(connection, rows, result)
            join_waiting(connection, [row.id for row in rows])
            self._refused.append(result.refused)
        self._recorded |= result.recorded
        return result

    def _insert(
        self, connection: Connection, rows: list[PredictionRow], result: PageResult
    ) -> None:
        """Insert rows; if the database refuses some, insert all others."""
        try:
            with connection.begin_nested():
                changed = self._changed_signatures(rows)
                new = self._predictions.insert(connection, rows, changed)
        except (DBAPIError, OverflowError, UnicodeEncodeError) as error:
            if isinstance(error, OperationalError) or getattr(
                error, "connection_invalidated", False
            ):
                raise
            if len(rows) == 1:
                cause = getattr(error, "orig", error)
                result.refused.append((rows[0], f"The database refuses it: {cause}"))
                return
            middle = len(rows) // 2
            self._insert(connection, rows[:middle], result)
            self._insert(connection, rows[middle:], result)
        else:
            result.recorded |= changed
            result.rows += new
            result.duplicates += len(rows) - new

    def _changed_signatures(
        self, rows: Sequence[PredictionRow]
    ) -> dict[VersionKey, Signature | None]:
        """Return the signatures of the rows' versions that the database does not have yet."""
        keys = {(row.model, row.version) for row in rows}
        found = {key: self._signatures.find(*key) for key in keys}
        return {
            key: signature
            for key, signature in found.items()
            if self._recorded.get(key, ...) != signature
        }


class RefusedRecords:
    """Records that cannot be stored, in a file of JSON lines, `{"why": ..., "what": ...}`.

    Once the file exceeds 16 MB, further records are not written to it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / REFUSED_FILE

    def append(self, records: Sequence[tuple[Any, str]]) -> None:
        """Write records with reasons; a crash before the commit can write them twice."""
        if not records:
            return
        try:
            if self._path.exists() and self._path.stat().st_size > REFUSED_MAX_BYTES:
                return
            with self._path.open("ab") as file:
                for what, why in records:
                    file.write(msgspec.json.encode({"why": why, "what": what}) + b"\n")
        except OSError as error:
            logger.error("%s cannot be written: %s", self._path, error)


def _rows(records: Sequence[JournalRecord], result: PageResult) -> Iterator[PredictionRow]:
    for record in records:
        try:
            yield from rows_from_record(record)
        except ValueError as error:
            result.refused.append((record, str(error)))

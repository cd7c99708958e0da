"""Drain the journal's segments into the database; see `tidemill.loop.ingest.process`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, OperationalError

from tidemill.errors import UnavailableError
from tidemill.loop.ingest.refused_records import RefusedRecords
from tidemill.loop.ingest.signatures import SignatureLookup
from tidemill.loop.ingest.state import IngestState
from tidemill.serving.journal.record_types import JournalRecord
from tidemill.serving.journal.segments import (
    PAGE_BYTES,
    Segment,
    SegmentPage,
    discard,
    read_segment,
)
from tidemill.serving.journal.segments import segments as list_segments
from tidemill.signature import Signature
from tidemill.stores.database.database import Database
from tidemill.stores.predictions.feedback import join_waiting
from tidemill.stores.predictions.offsets import advance_offset, delete_stale_offsets, read_offsets
from tidemill.stores.predictions.prediction_rows import PredictionRow, rows_from_record
from tidemill.stores.predictions.predictions import Predictions, VersionKey

logger = logging.getLogger(__name__)


@dataclass
class IngestCounts:
    """What this process has come to since its start."""

    rows: int = 0
    duplicates: int = 0
    rejected: int = 0
    damaged_bytes: int = 0
    errors: int = 0
    unreadable: int = 0


@dataclass
class _Part:
    """One page on its way into the database; it becomes part of the counts with the commit."""

    counts: IngestCounts = field(default_factory=IngestCounts)
    rejected: list[tuple[JournalRecord | PredictionRow, str]] = field(default_factory=list)
    told: dict[VersionKey, Signature | None] = field(default_factory=dict)

    def reject(self, what: JournalRecord | PredictionRow, why: str) -> None:
        self.rejected.append((what, why))


class Ingest:
    """Stores what is in a journal's folder.

    Args:
        folder: The journal's; it need not be there yet.
        signatures: Tells the signatures of versions.
        page_bytes: About how much of a segment goes into one transaction.
        statistics_rows: After so many new rows, and each time twice as many, the database is told
            to count: a planner that knows nothing of a new table reads all of it.
    """

    def __init__(
        self,
        database: Database,
        folder: Path,
        signatures: SignatureLookup,
        *,
        page_bytes: int = PAGE_BYTES,
        statistics_rows: int = 10_000,
    ) -> None:
        self.folder = folder
        self._counted_at = statistics_rows
        self.counts = IngestCounts()
        self._database = database
        self._predictions = Predictions(database)
        self._signatures = signatures
        self._rejected = RefusedRecords(folder)
        self._page_bytes = page_bytes
        self._drained = time.time()
        self._told: dict[VersionKey, Signature | None] = {}
        self._unreadable: dict[str, str] = {}

    def drain(
        self,
        progress: Callable[[int], None] = lambda size: None,
        stop: threading.Event | None = None,
    ) -> int:
        """Store everything that is in the folder now; how many rows were new.

        Args:
            progress: Hears of every few bytes that were stored.
            stop: Ends it between two pages.

        Raises:
            UnavailableError: The database cannot be reached; what is stored so far stays.
        """
        before = self.counts.rows
        known, self._unreadable = self._unreadable, {}
        found = list_segments(self.folder, lambda path, error: self._skip(path, error, known))
        offsets = read_offsets(self._database, [s.path.name for s in found]) if found else {}
        for segment in found:
            for size in self._pages(segment, offsets.get(segment.path.name, 0), known):
                progress(size)
                if stop is not None and stop.is_set():
                    return self.counts.rows - before
        self._drained = time.time()
        if self.counts.rows >= self._counted_at:
            self._counted_at = 2 * self.counts.rows
            self._predictions.analyze()
        return self.counts.rows - before

    def delete_stale_offsets(self) -> None:
        """Drop the offsets of segments that were finished long ago."""
        delete_stale_offsets(
            self._database, {segment.path.name for segment in list_segments(self.folder)}
        )

    def backlog(self) -> int:
        """Bytes in the folder that are not stored; all of them while the database is away."""
        found = list_segments(self.folder)
        try:
            offsets = read_offsets(self._database, [s.path.name for s in found]) if found else {}
        except UnavailableError:
            offsets = {}
        return sum(max(0, s.size - offsets.get(s.path.name, 0)) for s in found)

    def state(self, problem: str | None = None) -> IngestState:
        """The numbers for metrics; the lag counts from when nothing waited."""
        now, backlog = time.time(), self.backlog()
        if problem is None and self._unreadable:
            name, why = next(iter(self._unreadable.items()))
            count = len(self._unreadable)
            problem = f"{count:,} journal files cannot be read; the first, {name}: {why}"
        return IngestState(
            updated=now,
            lag_seconds=now - self._drained if backlog else 0.0,
            backlog_bytes=backlog,
            problem=problem,
            **vars(self.counts),
        )

    def _skip(self, path: Path, error: OSError, known: Mapping[str, str]) -> None:
        """Leave a segment alone until it can be read; it is named once, however often it is met."""
        self._unreadable[path.name] = str(error)
        if known.get(path.name) != str(error):
            self.counts.unreadable += 1
            logger.error("%s cannot be read and is left: %s", path.name, error)

    def _pages(self, segment: Segment, offset: int, known: Mapping[str, str]) -> Iterator[int]:
        """Store a segment page by page, giving the bytes of each.

        What is written to it meanwhile is left for the next time, lest a busy writer keep all other
        segments waiting.
        """
        path = segment.path
        while offset < segment.size or segment.closed:
            try:
                page = read_segment(path, offset, limit=self._page_bytes)
            except FileNotFoundError:
                return  # another process has finished it
            except OSError as error:
                self._skip(path, error, known)
                return
            moved = page.next_offset - offset
            if moved and not self._store(path.name, offset, page):
                return  # another process is at it
            if page.finished:
                discard(path)
            yield moved
            if page.finished or not moved:
                return
            offset = page.next_offset

    def _store(self, name: str, offset: int, page: SegmentPage) -> bool:
        """A page and the offset behind it, in one transaction; False where another was quicker."""
        part = _Part()
        part.counts.damaged_bytes = page.damaged
        rows = list(_rows(page.records, part))
        with self._database.write() as connection:
            if not advance_offset(connection, name, offset, page.next_offset):
                return False
            self._insert(connection, rows, part)
            join_waiting(connection, [row.id for row in rows])
            self._rejected.keep(part.rejected)
        self._told |= part.told
        self._add_up(name, part)
        return True

    def _insert(self, connection: Connection, rows: list[PredictionRow], part: _Part) -> None:
        """Store rows; where the database refuses some, all others are stored."""
        try:
            with connection.begin_nested():
                told = self._untold(rows)
                new = self._predictions.insert(connection, rows, told)
        except DBAPIError as error:
            if error.connection_invalidated or isinstance(error, OperationalError):
                raise
            if len(rows) == 1:
                part.reject(rows[0], f"The database refuses it: {error.orig}")
                return
            middle = len(rows) // 2
            self._insert(connection, rows[:middle], part)
            self._insert(connection, rows[middle:], part)
        else:
            part.told |= told
            part.counts.rows += new
            part.counts.duplicates += len(rows) - new

    def _untold(self, rows: Sequence[PredictionRow]) -> dict[VersionKey, Signature | None]:
        """The signatures of versions that the database does not know of, as far as we do."""
        seen = {(row.model, row.version) for row in rows}
        found = {key: self._signatures.find(*key) for key in seen}
        return {k: held for k, held in found.items() if self._told.get(k, ...) != held}

    def _add_up(self, name: str, part: _Part) -> None:
        part.counts.rejected = len(part.rejected)
        for field_name, value in vars(part.counts).items():
            setattr(self.counts, field_name, getattr(self.counts, field_name) + value)
        if part.counts.damaged_bytes:
            logger.warning("%s: %d damaged bytes skipped", name, part.counts.damaged_bytes)
        if part.rejected:
            why = part.rejected[0][1]
            logger.error("%s: %d records set aside; the first: %s", name, len(part.rejected), why)


def _rows(records: Sequence[JournalRecord], part: _Part) -> Iterator[PredictionRow]:
    for record in records:
        try:
            yield from rows_from_record(record)
        except ValueError as error:
            part.reject(record, str(error))

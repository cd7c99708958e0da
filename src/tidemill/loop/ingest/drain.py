"""Drains the journal's segments into the database; see `tidemill.loop.ingest.process`.

See decision 090.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tidemill.errors import UnavailableError
from tidemill.loop.ingest.page_writer import PageResult, PageWriter
from tidemill.loop.ingest.signatures import SignatureLookup
from tidemill.loop.ingest.state import IngestState
from tidemill.serving.journal.segments import (
    PAGE_BYTES,
    Segment,
    SegmentPage,
    damaged_segments,
    discard,
    read_segment,
    set_aside,
)
from tidemill.serving.journal.segments import segments as list_segments
from tidemill.stores.database.database import Database
from tidemill.stores.predictions.offsets import delete_stale_offsets, read_offsets
from tidemill.stores.predictions.predictions import Predictions

logger = logging.getLogger(__name__)


@dataclass
class IngestCounts:
    """Counts since this process started; see `IngestState`."""

    rows: int = 0
    duplicates: int = 0
    rejected: int = 0
    damaged_bytes: int = 0
    errors: int = 0
    unreadable: int = 0


class Ingest:
    """Stores what is in a journal's folder.

    Args:
        folder: The journal's folder, which need not exist yet.
        signatures: Finds the signatures of versions.
        page_bytes: About how many bytes of a segment are stored in one transaction.
        statistics_rows: After so many new rows, and then whenever their number has doubled, the
            database's statistics are updated: without them a query may scan a whole new table.
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
        self.counts = IngestCounts()
        self._database = database
        self._writer = PageWriter(database, folder, signatures)
        self._page_bytes = page_bytes
        self._next_statistics = statistics_rows
        self._drained_at = time.time()
        self._unreadable: dict[str, str] = {}

    def drain(
        self,
        progress: Callable[[int], None] = lambda size: None,
        stop: threading.Event | None = None,
    ) -> int:
        """Store everything that is in the folder now; return how many rows were new.

        Args:
            progress: Called with the size of each stored page, in bytes.
            stop: Ends it between two pages.

        Raises:
            UnavailableError: The database cannot be reached; stored pages stay stored.
        """
        before = self.counts.rows
        known, self._unreadable = self._unreadable, {}
        segments = list_segments(self.folder, lambda path, error: self._skip(path, error, known))
        offsets = self._offsets(segments)
        for segment in segments:
            for size in self._pages(segment, offsets.get(segment.path.name, 0), known):
                progress(size)
                if stop is not None and stop.is_set():
                    return self.counts.rows - before
        self._drained_at = time.time()
        if self.counts.rows >= self._next_statistics:
            self._next_statistics = 2 * self.counts.rows
            Predictions(self._database).analyze()
        return self.counts.rows - before

    def delete_stale_offsets(self) -> None:
        """Delete the offsets of segments that were finished long ago."""
        present = {segment.path.name for segment in list_segments(self.folder)}
        delete_stale_offsets(self._database, present)

    def backlog(self) -> int:
        """Return the bytes in the folder not stored yet; all bytes if the database is down."""
        segments = list_segments(self.folder)
        try:
            offsets = self._offsets(segments)
        except UnavailableError:
            offsets = {}
        return sum(max(0, s.size - offsets.get(s.path.name, 0)) for s in segments)

    def state(self, problem: str | None = None) -> IngestState:
        """Return the state for metrics; the lag counts from when the journal was last drained."""
        now, backlog = time.time(), self.backlog()
        if problem is None and self._unreadable:
            name, why = next(iter(self._unreadable.items()))
            count = len(self._unreadable)
            problem = f"{count:,} journal files cannot be read; the first, {name}: {why}"
        return IngestState(
            updated=now,
            lag_seconds=now - self._drained_at if backlog else 0.0,
            backlog_bytes=backlog,
            problem=problem,
            damaged_files=len(damaged_segments(self.folder)),
            **vars(self.counts),
        )

    def _offsets(self, segments: list[Segment]) -> dict[str, int]:
        names = [segment.path.name for segment in segments]
        return read_offsets(self._database, names) if names else {}

    def _skip(self, path: Path, error: OSError, known: Mapping[str, str]) -> None:
        """Skip a segment until it can be read; log and count each problem only once."""
        self._unreadable[path.name] = str(error)
        if known.get(path.name) != str(error):
            self.counts.unreadable += 1
            logger.error("%s cannot be read and is skipped: %s", path.name, error)

    def _pages(self, segment: Segment, offset: int, known: Mapping[str, str]) -> Iterator[int]:
        """Store a segment page by page and yield the bytes of each.

        What is written to the segment meanwhile waits for the next call, so that a busy writer does
        not keep all other segments waiting.
        """
        path = segment.path
        while offset < segment.size or segment.closed:
            try:
                page = read_segment(path, offset, limit=self._page_bytes)
                self._keep_if_damaged(path, page)
            except FileNotFoundError:
                return  # another process has finished it
            except OSError as error:
                self._skip(path, error, known)
                return
            size = page.next_offset - offset
            if size:
                result = self._writer.store(path.name, offset, page)
                if result is None:
                    return  # another process is storing it
                self._count(path.name, result, page.damaged)
            if page.finished:
                discard(path)
            yield size
            if page.finished or not size:
                return
            offset = page.next_offset

    def _keep_if_damaged(self, path: Path, page: SegmentPage) -> None:
        """Set a segment aside before the page that found its damage is stored.

        A crash in between leaves it both in the journal and set aside. An empty segment counts as
        damaged, because it never had a name without a header.
        """
        if page.damaged or (page.finished and not page.next_offset):
            kept = set_aside(path)
            size = page.damaged
            logger.error("%s: %d damaged bytes skipped; the file is kept as %s", path, size, kept)

    def _count(self, name: str, result: PageResult, damaged_bytes: int) -> None:
        self.counts.rows += result.rows
        self.counts.duplicates += result.duplicates
        self.counts.rejected += len(result.refused)
        self.counts.damaged_bytes += damaged_bytes
        if result.refused:
            count, why = len(result.refused), result.refused[0][1]
            logger.error("%s: %d records cannot be stored; the first: %s", name, count, why)

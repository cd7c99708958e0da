"""Reads a whole journal folder, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tidemill.serving.journal.record_types import JournalRecord
from tidemill.serving.journal.segments import read_segment, segments


def read_folder(folder: Path) -> Iterator[JournalRecord]:
    """Every record in a folder, segment by segment."""
    for segment in segments(folder):
        page = read_segment(segment.path)
        while page.records:
            yield from page.records
            page = read_segment(segment.path, page.next_offset)

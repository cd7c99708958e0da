"""Reads whole segments and journal folders, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tidemill.serving.journal.record_types import JournalRecord
from tidemill.serving.journal.segments import SegmentPage, read_segment, segments


def read_folder(folder: Path) -> Iterator[JournalRecord]:
    """Every record in a folder, segment by segment."""
    for segment in segments(folder):
        yield from read_whole(segment.path).records


def read_whole(path: Path, offset: int = 0, **options: int) -> SegmentPage:
    """All pages of a segment in one."""
    whole = read_segment(path, offset, **options)
    while not whole.finished:
        page = read_segment(path, whole.next_offset, **options)
        if page.next_offset == whole.next_offset:
            break
        records, damaged = whole.records + page.records, whole.damaged + page.damaged
        whole = page._replace(records=records, damaged=damaged)
    return whole

"""Records that no table takes: kept beside the journal, for somebody to look at."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

logger = logging.getLogger(__name__)
FILE = "rejected.jsonl"
MAX_BYTES = 16 << 20


class RefusedRecords:
    """One file of JSON lines, `{"why": ..., "what": ...}`; beyond 16 MB they are only counted."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def keep(self, rejected: Sequence[tuple[Any, str]]) -> None:
        """Add what was rejected; a crash right afterwards may make it stand there twice."""
        if not rejected:
            return
        try:
            if self._path.exists() and self._path.stat().st_size > MAX_BYTES:
                return
            with self._path.open("ab") as file:
                for what, why in rejected:
                    held = msgspec.json.encode({"why": why, "what": what})
                    file.write(held + b"\n")
        except OSError as error:
            logger.error("%s cannot be written: %s", self._path, error)

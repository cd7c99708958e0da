"""The segment that a process is writing, and cleanup of drafts left by dead processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import weakref
from pathlib import Path

from tidemill.serving.journal.frames import HEADER
from tidemill.serving.journal.segments import is_closed

DRAFT = ".draft"
DRAFT_SECONDS = 60.0


class OpenSegment:
    """A segment file, locked for as long as it is open.

    It gets its final name only once it is locked and has its header, so a reader never takes a new
    segment for a closed one.

    Raises:
        OSError: The file cannot be created, locked or written.
    """

    def __init__(self, folder: Path, name: str, header: bytes) -> None:
        self.path = folder / name
        draft = folder / f"{name}{DRAFT}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(draft, flags, 0o640)
        # A journal that is dropped without `close` must not keep its segment locked.
        self._release = weakref.finalize(self, os.close, self._descriptor)
        self.size = 0
        self.started = time.monotonic()
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.write(header)
            draft.rename(self.path)
        except OSError:
            self.close()
            draft.unlink(missing_ok=True)
            raise

    def write(self, data: bytes) -> None:
        """Write all of the data; a short write is continued."""
        size = len(data)
        written = os.write(self._descriptor, data)
        while written < size:
            written += os.write(self._descriptor, data[written:])
        self.size += size

    def close(self) -> None:
        """Close the file, which releases the lock."""
        with contextlib.suppress(OSError):
            self._release()


def remove_dead_drafts(folder: Path) -> None:
    """Delete drafts whose process has died; none of them contains a record yet.

    The minimum age covers the instant between another process creating a draft and locking it.
    """
    for draft in folder.glob(f"*{DRAFT}"):
        with contextlib.suppress(FileNotFoundError), draft.open("rb") as file:
            found = os.fstat(file.fileno())
            stale = time.time() - found.st_mtime > DRAFT_SECONDS
            if stale and found.st_size <= HEADER.size and is_closed(file.fileno()):
                draft.unlink(missing_ok=True)

"""How much memory a process and everything it started holds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
PROC = Path("/proc")


def group_memory(group: int) -> int:
    """Resident memory of a process group, in bytes; pages that are shared count for each."""
    if (PROC / "self" / "stat").exists():
        return sum(_resident(entry, group) for entry in PROC.iterdir() if entry.name.isdigit())
    listed = subprocess.run(
        ["ps", "-axo", "pgid=,rss="], capture_output=True, text=True, check=False
    ).stdout.split()
    pairs = zip(listed[::2], listed[1::2], strict=False)
    return sum(int(kilobytes) * 1024 for pgid, kilobytes in pairs if int(pgid) == group)


def _resident(entry: Path, group: int) -> int:
    try:
        # After the command's name, which may hold anything: state, parent, group ... 22nd: pages.
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it ended meanwhile
        return 0
    return int(fields[21]) * PAGE if int(fields[2]) == group else 0

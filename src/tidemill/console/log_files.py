"""Read the ends of the log files in the home: one JSON object per line (see `tidemill.logs`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill.border import printable

TAIL_BYTES = 512 * 1024
#: Fields that have a column of their own, or are only for terminals.
HIDDEN = frozenset(
    ("timestamp", "level", "logger", "event", "process", "job_id", "exception", "color_message")
)


@dataclass(frozen=True)
class LogLine:
    """One log entry. For a line that is not JSON, `event` is the whole line."""

    time: str
    level: str
    source: str
    event: str
    more: str = ""


def names(folder: Path) -> list[str]:
    """The names of the log files."""
    return sorted(p.name for p in folder.glob("*.*") if p.suffix in (".log", ".out"))


def lines(
    folder: Path, name: str, *, text: str = "", level: str = "", most: int = 200
) -> list[LogLine]:
    """The newest lines of a file that contain a text, newest first."""
    if name not in names(folder):
        return []
    matching = [line for line in _tail(folder / name) if text.lower() in line.lower()]
    read = (_line(raw) for raw in reversed(matching))
    return _first((line for line in read if not level or line.level == level), most)


def lines_of_job(folder: Path, job_id: str, most: int) -> list[LogLine]:
    """What the workers on this machine logged about a job, oldest first."""
    found = [
        line
        for name in names(folder)
        if name.startswith("worker")
        for line in _tail(folder / name)
        if job_id in line
    ]
    read = sorted((_line(raw) for raw in dict.fromkeys(found)), key=lambda line: line.time)
    return read[-most:]


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    found = text.removesuffix("\n").split("\n")  # splitlines() would also split at U+2028
    return found[1:] if size > TAIL_BYTES else found


def _line(raw: str) -> LogLine:
    try:
        fields = json.loads(raw)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        return LogLine("", "", "", printable(raw[:2000]))
    rest = {key: value for key, value in fields.items() if key not in HIDDEN}
    more = str(fields.get("exception") or "") + (json.dumps(rest) if rest else "")
    more = printable(more, keep="\n")
    return LogLine(
        time=_text(fields, "timestamp")[:19].replace("T", " "),
        level=_text(fields, "level"),
        source=_text(fields, "logger"),
        event=_text(fields, "event")[:4000],
        more=more[:8000],
    )


def _text(fields: dict[str, Any], name: str) -> str:
    return printable(str(fields.get(name) or ""))


def _first(found: Iterator[LogLine], most: int) -> list[LogLine]:
    return [line for line, _ in zip(found, range(most), strict=False)]

"""The index of decision records, by area."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "decisions"
_HEAD = re.compile(
    r"# (?P<number>\d{3}) (?P<title>.+)\n\n"
    r"\*Status: (?P<status>.+?)\. Area: (?P<area>[^.]+)\. Date: (?P<date>\d{4}-\d\d-\d\d)\.\*\n"
)


@dataclass(frozen=True)
class Decision:
    """One record: its file and the metadata of its first two lines."""

    file: str
    number: str
    title: str
    status: str
    area: str
    date: str


def decisions() -> list[Decision]:
    """Return all records by number.

    Raises:
        ValueError: A record does not start with a title and a status line.
    """
    return [_read(path) for path in sorted(FOLDER.glob("[0-9]*.md"))]


def by_area() -> dict[str, list[Decision]]:
    """Group the records by area, with areas in alphabetical order."""
    records = decisions()
    return {
        area: [record for record in records if record.area == area]
        for area in sorted({record.area for record in records})
    }


def page() -> str:
    """Render the index page."""
    lines = [
        "# Decision records",
        "",
        "Why the code is as it is. Each record covers one subject; a record that was replaced or",
        "amended names the newer one.",
        "",
    ]
    for area, records in by_area().items():
        lines += [f"## {area}", "", "| record | status | date |", "|---|---|---|"]
        lines += [
            f"| [{record.number} {record.title}]({record.file}) | {record.status} | {record.date} |"
            for record in records
        ]
        lines.append("")
    return "\n".join(lines)


def _read(path: Path) -> Decision:
    match = _HEAD.match(path.read_text("utf-8"))
    if match is None:
        raise ValueError(
            f"{path.name} must begin with `# NNN Subject: decision`, an empty line, and"
            " `*Status: accepted. Area: Serving. Date: 2026-11-30.*`"
        )
    return Decision(path.name, **match.groupdict())

"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Render a table followed by a blank line."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(map(escape_cell, row))} |" for row in rows]
    return [*lines, ""]


def escape_cell(text: str | None) -> str:
    """Escape a text for a table cell."""
    return " ".join((text or "").replace("|", "\\|").split())


def code(value: object) -> str:
    """Render a value in code font; empty for None."""
    return "" if value in (None, "", [], ()) else f"`{value}`"

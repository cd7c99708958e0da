"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table with a blank line after it."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(map(cell, row))} |" for row in rows]
    return [*lines, ""]


def cell(text: str | None) -> str:
    """A text that does not end its cell."""
    return " ".join((text or "").replace("|", "\\|").split())


def code(value: object) -> str:
    """A value in code font; nothing for none."""
    return "" if value in (None, "", [], ()) else f"`{value}`"

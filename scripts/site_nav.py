"""MkDocs hook: list runbooks, benchmarks and decision records in the navigation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from reference_pages.decisions import Decision, by_area  # noqa: E402, RUF100


def on_config(config: Any) -> Any:
    """Add the pages of each folder to its navigation section."""
    root = Path(config.docs_dir)
    extra = {
        "Operations": [{"Runbooks": _pages(root, "runbooks")}],
        "Benchmarks": _pages(root, "benchmarks"),
        "Decisions": ["decisions/index.md", *_decisions()],
    }
    for part in config.nav:
        title, pages = next(iter(part.items()))
        if title in extra:
            pages.extend(extra[title])
    return config


def _pages(root: Path, folder: str) -> list[str]:
    return [str(path.relative_to(root)) for path in sorted((root / folder).glob("*.md"))]


def _decisions() -> list[Any]:
    return [{area: [_entry(record) for record in records]} for area, records in by_area().items()]


def _entry(record: Decision) -> dict[str, str]:
    return {f"{record.number} {record.title}": f"decisions/{record.file}"}

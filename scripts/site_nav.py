"""A hook of MkDocs: folders whose pages come and go are listed in the navigation as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDERS = {"Operations": "runbooks", "Benchmarks": "benchmarks", "Decisions": "decisions"}


def on_config(config: Any) -> Any:
    """Add each folder's pages, by their names, to the part of the navigation that is theirs."""
    root = Path(config.docs_dir)
    for part in config.nav:
        title, pages = next(iter(part.items()))
        if title in FOLDERS:
            found = [str(p.relative_to(root)) for p in sorted((root / FOLDERS[title]).glob("*.md"))]
            pages.extend([{"Runbooks": found}] if title == "Operations" else found)
    return config

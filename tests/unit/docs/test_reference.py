"""The reference says every command, setting, route, metric and field there is, in words."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))


def test_the_reference_is_what_the_code_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = ROOT / "scripts" / "reference.py"
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setattr(sys, "argv", [str(script), "--check"])
    runpy.run_path(str(script), run_name="__main__")  # exits where a page is out of date


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_in_the_reference_is_without_words(page: Path) -> None:
    for line in page.read_text().splitlines():
        if line.startswith("| `") and page.name != "bundle.md":  # its fields speak for themselves
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            assert cells[1] or cells[-1].strip(), line

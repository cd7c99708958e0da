"""The reference says every setting and every route there is, in the words of the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "reference.py"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["settings.md", "routes.md"])
def test_the_reference_is_what_the_code_says(reference: ModuleType, page: str, home: Path) -> None:
    written = (reference.FOLDER / page).read_text()
    assert written == reference.PAGES[page](), "run: python scripts/reference.py"


def test_nothing_in_the_reference_is_without_words(reference: ModuleType, home: Path) -> None:
    for page in reference.PAGES.values():
        for line in page().splitlines():
            if line.startswith("| `"):
                cells = [cell.strip() for cell in line.split(" | ")]
                assert cells[1] or cells[2].strip(" |"), line

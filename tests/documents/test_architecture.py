"""ARCHITECTURE.md and the decision records only name existing files and records."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from reference_pages import architecture, decisions  # noqa: E402

FILE = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|md|sh|yaml|html|toml)|(?:[a-z_]+/)+)`")


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_files_that_the_page_names_exist(name: str) -> None:
    found = FILE.findall((ROOT / name).read_text())
    assert len(found) > 20
    places = [ROOT, ROOT / "src" / "tidemill", ROOT / "src" / "tidemill" / "serving" / "protocols"]
    missing = [path for path in found if not any((place / path).exists() for place in places)]
    assert not missing


@pytest.mark.parametrize("layer", ["loop", "steps", "stores"])
def test_every_folder_belongs_to_a_subject(layer: str) -> None:
    assert architecture.folders(layer) == set(architecture.FOLDERS[layer])
    assert set(architecture.FOLDERS[layer].values()) <= set(architecture.SUBJECTS)


def test_every_folder_of_the_data_plane_is_in_the_picture() -> None:
    assert architecture.folders("serving") == set(architecture.SERVING)


def test_decision_records_have_a_subject_and_a_status() -> None:
    records = decisions.decisions()
    assert len({record.number for record in records}) == len(records) > 90
    for record in records:
        assert re.match(r"(accepted|superseded by \[\d{3}\])", record.status), record.file
        assert record.file.startswith(record.number)


def test_code_cites_only_records_that_exist() -> None:
    numbers = {record.number for record in decisions.decisions()}
    for path in sorted((ROOT / "src").rglob("*.py")):
        cited = re.findall(r"\b[Dd]ecisions? (\d{3})\b", path.read_text())
        assert set(cited) <= numbers, path

"""The site builds without warnings, and its pages load nothing from other hosts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


def build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict"]
    return subprocess.run(
        [*command, "--config-file", str(source / "mkdocs.yml"), "--site-dir", str(site)],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


class Loads(HTMLParser):
    """Collects the resources that a page loads, without its links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        place = given.get(LOADS.get(tag, ""))
        if place and given.get("rel") not in ("canonical", "next", "prev"):
            self.found.append(place)


def test_no_page_loads_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 100
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text())
        assert loads.found, page
        assert not [place for place in loads.found if re.match(r"(https?:)?//", place)], page


def test_no_style_loads_from_other_hosts(site: Path) -> None:
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?https?:", sheet.read_text()), sheet


def test_every_page_is_in_the_search(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text()
    for page in ("tutorial.html", "how-to/flask.html", "reference/cli.html", "runbooks/drift.html"):
        assert f'"location":"{page}' in index, page


def test_a_broken_anchor_is_an_error(tmp_path: Path) -> None:
    for name in ("mkdocs.yml", "scripts", "docs"):
        place = ROOT / name
        target = tmp_path / name
        if place.is_dir():
            shutil.copytree(place, target)
        else:
            shutil.copy(place, target)
    page = tmp_path / "docs" / "how-to" / "flask.md"
    page.write_text(page.read_text() + "\n[gone](../serving.md#no-such-part)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert "no-such-part" in done.stderr

"""Commands, options, settings, routes, metrics and files named on the pages exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documents import names

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
PAGES += [*sorted((ROOT / "docs").rglob("*.md"))]
#: Decision records describe the past and are excluded.
PAGES = [path for path in PAGES if path.parent.name != "decisions"]
FILE = re.compile(r"^(deploy|tests|scripts|src|benchmarks)/[\w./-]+$")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_on_a_page_exist(path: Path) -> None:
    for span, place in names.inline_code(path):
        if span.startswith("tidemill "):
            names.check_commands(span, place)
        elif re.fullmatch(r"TIDEMILL_[A-Z0-9_]+(=.*)?", span):
            name = span.partition("=")[0].removesuffix("_FILE")
            assert name in names.settings(), f"{place}: no setting {name}"
        elif match := re.fullmatch(r"(GET|POST|PUT|DELETE) (/\S*)", span):
            assert names.is_route(match[1], match[2]), f"{place}: no route {span}"
        elif match := re.match(r"(tidemill_\w+|model_predictions_total|http_request\w+)", span):
            beginning = span.endswith("*")
            known = [n for n in names.metrics() if n == match[0] or (beginning and match[0] in n)]
            assert known, f"{place}: no metric {match[0]}"
        elif FILE.match(span) and not span.startswith("deploy/secrets"):  # created by make-secrets
            assert (ROOT / span).exists(), f"{place}: no file {span}"
        elif match := re.fullmatch(r"make ([a-z-]+)( .*)?", span):
            makefile = (ROOT / "Makefile").read_text()
            assert re.search(rf"^{match[1]}:", makefile, re.MULTILINE), f"{place}: {span}"

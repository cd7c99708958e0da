"""The page tests fail for missing output and for blocks without a valid directive."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.documents.blocks import Step, commands, read_page
from tests.documents.compare import missing
from tests.documents.names import check_commands, is_route
from tests.documents.session import Session
from tests.documents.test_documents import _follow, _parse

SAID = """
  run     accuracy
 ──────────────────
  ridge     0.9012
Registered churn version 3.  2026-11-24 22:03  1a20fa07e687e80f6daca0de64
"""


def page(folder: Path, text: str) -> Path:
    path = folder / "page.md"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "shown",
    [
        ["run accuracy", "ridge 0.9012"],
        ["ridge 0.91"],  # nearly
        ["...", "Registered churn version 3. 2025-01-01 00:00 0f20fa07e687e80f6daca0de64"],
        ["Registered ... version 3. ..."],
        ["──────"],
        [],
    ],
)
def test_shown_output_is_found(shown: list[str]) -> None:
    assert missing(shown, SAID) is None


@pytest.mark.parametrize(
    "shown",
    [
        ["ridge 0.8"],
        ["ridge 0.9012", "run accuracy"],  # the order counts
        ["Registered churn version 4. ..."],  # whole numbers are exact
        ["Registered churn version 3."],  # a line is shown whole, or ends in dots
        ["lasso 0.9012"],
    ],
)
def test_missing_output_is_reported(shown: list[str]) -> None:
    assert missing(shown, SAID) == shown[-1]


def test_numbers_may_be_left_out_of_the_comparison() -> None:
    assert missing(["ridge 0.1"], SAID, numbers=False) is None
    assert missing(["ridge fast"], SAID, numbers=False) == "ridge fast"


@given(st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1), max_size=5))
def test_every_output_matches_itself(lines: list[str]) -> None:
    assert missing(lines, "\n".join(lines)) is None


@pytest.mark.parametrize(
    "text",
    [
        "```\nplain\n```\n",  # a block without a language
        "<!-- test: skip -->\n```bash\nls\n```\n",  # skipping is not supported
        "<!-- test: parse -->\n```bash\nls\n```\n",  # no reason
        "<!-- test: retry -->\n\nNo block follows.\n",
        "    indented\n",
    ],
)
def test_a_block_without_a_valid_directive_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"page\.md"):
        read_page(page(tmp_path, text))


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("json", '{"a": 1} {"b"}'),
        ("yaml", "a: [1"),
        ("toml", "a = "),
        ("sql", "SELEKT 1"),
        ("cobol", "STOP RUN."),
        ("promql", "sum(rate(x[5m])"),
    ],
)
def test_a_broken_block_is_refused(tmp_path: Path, language: str, text: str) -> None:
    with pytest.raises(Exception, match=r".+"):
        _parse(Step("page:1", language, text, {}), tmp_path, "page:1")


@pytest.mark.parametrize("command", ["if true", "tidemill trian", "tidemill train --fast"])
def test_an_invalid_command_is_refused(tmp_path: Path, command: str) -> None:
    with pytest.raises(AssertionError, match="page:1"):
        _parse(Step("page:1", "bash", command, {"parse": "why"}), tmp_path, "page:1")


def test_commands_are_separated_from_their_output() -> None:
    text = "$ one \\\n  --more\nsaid\n$ echo 'a\nb'\na\nb\n"
    found = commands(Step("page:1", "console", text, {}))
    assert found == [("one \\\n  --more", ["said"]), ("echo 'a\nb'", ["a", "b"])]


def test_only_known_names_pass() -> None:
    check_commands("A=1 tidemill train --promote && kubectl -n tidemill get pods", "page:1")
    assert is_route("POST", "/models/churn/predict")
    assert not is_route("GET", "/no/such/route")


@pytest.fixture
def session(tmp_path: Path) -> Session:
    (tmp_path / "work").mkdir()
    return Session(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("$ echo one\ntwo\n", {}),
        ("$ false\n", {}),
        ("$ true\n", {"exit": "3"}),
        ("$ false | true\n", {}),
        ("$ no-such-program\n", {"output": "varies"}),
    ],
)
def test_a_console_block_can_fail(session: Session, text: str, words: dict[str, str]) -> None:
    with pytest.raises(AssertionError, match="page:1"):
        _follow(Step("page:1", "console", text, words), session, "")


def test_commands_share_folder_and_variables(session: Session) -> None:
    text = "$ mkdir in && cd in\n$ A=b\n$ echo $A $(basename $PWD)\nb in\n"
    _follow(Step("page:1", "console", text, {}), session, "")


def test_ports_are_mapped_to_free_ones_and_back(session: Session) -> None:
    code, said = session.run("echo http://127.0.0.1:8000/predict")
    assert (code, said) == (0, "http://127.0.0.1:8000/predict\n")
    assert session.ports["8000"] != "8000"

"""The layout of the package: small folders, unique class names, and no retired words in names."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import tidemill

PACKAGE = Path(tidemill.__file__).parent
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if "migrations" not in path.parts]

#: Words that were replaced by the field's terms; see docs/glossary.md. They may not return as the
#: name of a module, class or function, nor as a part of one.
RETIRED = """
keeper attendant caretaker pulse household backstage turning desk surroundings fleet sparring
lessons spells memory_of umpire crown sketch scout alternatives staging consequences
follow_up planner first_tables courier notices ring_soon unheard foreign
"""
#: Common words: retired as whole names, allowed as a part of a longer one.
RETIRED_ALONE = """
visit cells forms pack lane turn companion bars moments repeats feed lower wanted rejected
quiet link likely chances held place
"""
#: Class names that two modules may share.
SHARED: frozenset[str] = frozenset()


def _definitions(path: Path) -> Iterator[str]:
    yield path.parent.name if path.stem == "__init__" else path.stem
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name


def _words(name: str) -> list[str]:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_").split("_")


def _retired_in(name: str) -> str | None:
    words = _words(name)
    joined = f"_{'_'.join(words)}_"
    for word in RETIRED.split():
        if f"_{word}_" in joined:
            return word
    return "_".join(words) if "_".join(words) in RETIRED_ALONE.split() else None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_name_uses_a_retired_word(path: Path) -> None:
    found = {name: word for name in _definitions(path) if (word := _retired_in(name))}
    assert not found, f"retired words in names, see docs/glossary.md: {found}"


def test_class_names_are_unique() -> None:
    names = Counter(
        node.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    twice = {name for name, count in names.items() if count > 1}
    assert twice <= SHARED


def test_no_folder_has_more_than_twenty_modules() -> None:
    sizes = Counter(path.parent for path in FILES if path.stem != "__init__")
    assert not {str(folder): size for folder, size in sizes.items() if size > 20}


@pytest.mark.parametrize("name", ["FleetKeeper", "scout_trial", "_memory_of", "Turn", "_lower"])
def test_retired_words_are_found_wherever_they_stand_in_a_name(name: str) -> None:
    assert _retired_in(name)


@pytest.mark.parametrize("name", ["returned", "lower_bound", "placement", "Laned"])
def test_longer_words_are_not_retired(name: str) -> None:
    assert not _retired_in(name)

"""Check that commands, options, settings, routes and metrics named on a page exist."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def check_commands(text: str, place: str) -> None:
    """Check that every `tidemill ...` in a shell line is an existing command with its options."""
    for line in re.split(r"\n|&&|;|\|", text.replace("\\\n", " ")):
        words = _words(line)
        while words and re.match(r"[A-Z_]+=", words[0]):  # variables of this one command
            words.pop(0)
        if words[:1] == ["tidemill"]:
            check_words(words[1:], place)


def check_words(words: list[str], place: str) -> None:
    """Check that the words after `tidemill` are a command and its options."""
    command = root()
    for word in words:
        if word.startswith("-"):
            name = word.partition("=")[0]
            assert name in options(command), f"{place}: `{command.name}` has no {name}"
        elif hasattr(command, "commands"):
            assert word in command.commands, f"{place}: there is no command `{word}`"
            command = command.commands[word]


@functools.cache
def root() -> Any:
    from tidemill.cli.app import command_tree

    return command_tree()


def options(command: Any) -> set[str]:
    found = {"--help", "-h"}
    for parameter in command.params:
        found.update(parameter.opts)
        found.update(parameter.secondary_opts)
    return found


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return line.split()


@functools.cache
def settings() -> set[str]:
    """Return the variables of the reference, of single commands and of the compose file."""
    named = re.findall(r"`([A-Z][A-Z0-9_]+)`", (REFERENCE / "settings.md").read_text())
    others = (REFERENCE / "cli.md").read_text() + (ROOT / "deploy" / "compose.yaml").read_text()
    return {*named, *re.findall(r"\bTIDEMILL_[A-Z_]+", others)}


@functools.cache
def metrics() -> set[str]:
    return set(re.findall(r"^\| `(\w+)`", (REFERENCE / "metrics.md").read_text(), re.MULTILINE))


@functools.cache
def routes() -> set[tuple[str, str]]:
    text = (REFERENCE / "routes.md").read_text() + (REFERENCE / "predictions.md").read_text()
    return set(re.findall(r"^\| `([A-Z]+) (\S+?)`", text, re.MULTILINE))


def is_route(verb: str, path: str) -> bool:
    """Return whether the path matches a route template."""
    path = path.split("?")[0]
    for known, template in routes():
        pattern = re.sub(r"\\{[^/]+\\}", "[^/]+", re.escape(template).replace("\\{", "\\{"))
        if known == verb and re.fullmatch(pattern, path):
            return True
    return False


def inline_code(path: Path) -> Iterator[tuple[str, str]]:
    """Yield every inline code span outside blocks, with its location."""
    fenced = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        if not fenced:
            for span in re.findall(r"`([^`]+)`", line):
                yield span, f"{path.relative_to(ROOT)}:{number}"

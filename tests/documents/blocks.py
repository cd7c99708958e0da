"""A page as a list of steps: its fenced blocks, and what its comments say about testing them.

A comment `<!-- test: ... -->` before a block decides what happens to it, where the default for its
language does not fit:

    parse REASON      look at its syntax only; the reason says what is missing to run it
    file PATH         write it to a file
    shows PATH        it is, as Python, a statement of that file
    exit N            its last command ends with this code
    retry             run the command until its output is as shown
    numbers vary      compare the output without its numbers
    output varies     run it and compare nothing

A comment whose first line is `test: run` holds commands that run and are not shown. `test: stop`
ends the servers that were started. The others are about the whole page: `slow`, it takes long;
`home`, it begins in a folder with a promoted model; `checkout`, with a Makefile; `servers`, it
names a PostgreSQL and a Redis at example.org; `torch`, its commands need PyTorch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

COMMENT = re.compile(r"<!--\s*test:\s*(.*?)-->", re.DOTALL)
PAGE_WORDS = {"slow", "home", "checkout", "servers", "torch"}
VERBS = {"parse", "file", "shows", "exit", "retry", "numbers", "output"}


@dataclass(frozen=True)
class Step:
    """A block, or what a comment asks for: `language` is then `hidden` or `stop`."""

    place: str
    language: str
    text: str
    words: dict[str, str]


@dataclass(frozen=True)
class Page:
    path: Path
    steps: list[Step]
    marks: set[str]


def read_page(path: Path) -> Page:
    """The page's steps, in order.

    Raises:
        ValueError: A comment says something that has no meaning, or a block has no language.
    """
    page = Page(path, [], set())
    words: dict[str, str] = {}
    for token in MarkdownIt().parse(path.read_text()):
        place = f"{path}:{token.map[0] + 1 if token.map else 0}"
        if token.type in ("fence", "code_block"):
            page.steps.append(_block(token, words, place))
            words = {}
        elif token.type == "html_block":
            for match in COMMENT.finditer(token.content):
                words = _take(match[1].strip(), page, place)
        elif words:
            raise ValueError(f"{place}: a comment about a block, and no block follows")
    if words:
        raise ValueError(f"{path}: a comment about a block, and no block follows")
    return page


def _block(token: Token, words: dict[str, str], place: str) -> Step:
    if not token.info.strip():
        raise ValueError(f"{place}: a block without a language; plain text is `text`")
    return Step(place, token.info.split()[0], token.content, words)


def _take(said: str, page: Page, place: str) -> dict[str, str]:
    """Do what a comment says about the page, or give what it says about the next block."""
    verb, _, more = said.partition("\n")
    if verb in PAGE_WORDS:
        page.marks.add(verb)
    elif verb == "run":
        page.steps.append(Step(place, "hidden", more.strip(), {}))
    elif verb == "stop":
        page.steps.append(Step(place, "stop", "", {}))
    else:
        return _words(verb, place)
    return {}


def _words(said: str, place: str) -> dict[str, str]:
    words = {}
    for part in re.split(rf", (?=(?:{'|'.join(VERBS)})\b)", said):
        verb, _, rest = part.strip().partition(" ")
        if verb not in VERBS or (verb in ("parse", "file", "shows", "exit") and not rest):
            raise ValueError(f"{place}: `test: {said}` means nothing")
        words[verb] = rest
    return words


def commands(step: Step) -> list[tuple[str, list[str]]]:
    """The commands of a shell block, each with the output that is shown for it.

    In a console block a command begins with `$ ` and goes on while a line ends in a backslash or
    stands in an open quotation; other blocks are one command without output. A console block
    without `$ ` gives one command that is empty: its text is more output of the one before.
    """
    if step.language != "console":
        return [(step.text, [])]
    found: list[tuple[str, list[str]]] = []
    open_ended = False
    for line in step.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif open_ended:
            command, shown = found[-1]
            found[-1] = (f"{command}\n{line}", shown)
        else:
            if not found:
                found.append(("", []))
            found[-1][1].append(line)
        open_ended = bool(found) and not found[-1][1] and _is_open(found[-1][0])
    return found


def _is_open(command: str) -> bool:
    return command.endswith("\\") or command.count("'") % 2 == 1

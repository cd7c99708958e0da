"""Read a page as a list of steps: its fenced blocks and their test directives.

A comment `<!-- test: ... -->` before a block overrides the default for its language:

    parse REASON      check the syntax only; the reason says why it cannot run
    file PATH         write it to a file
    shows PATH        the block is a Python statement of that file
    exit N            its last command ends with this code
    retry             run the command until its output is as shown
    numbers vary      compare the output without its numbers
    output varies     run it and compare nothing

A comment whose first line is `test: run` contains hidden commands to run. `test: stop` stops the
servers that were started. The other directives apply to the whole page: `slow`, it takes long;
`home`, it starts in a folder with a promoted model; `checkout`, in a checkout with a Makefile;
`servers`, it uses a PostgreSQL and a Redis at example.org; `torch`, it needs PyTorch.
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
    """A block, or a directive whose `language` is `hidden` or `stop`."""

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
    """Return the page's steps, in order.

    Raises:
        ValueError: A directive is unknown, or a block has no language.
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
            raise ValueError(f"{place}: a test directive without a block")
    if words:
        raise ValueError(f"{path}: a test directive without a block")
    return page


def _block(token: Token, words: dict[str, str], place: str) -> Step:
    if not token.info.strip():
        raise ValueError(f"{place}: a block without a language; use `text` for plain text")
    return Step(place, token.info.split()[0], token.content, words)


def _take(said: str, page: Page, place: str) -> dict[str, str]:
    """Apply a page directive, or return the directives for the next block."""
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
            raise ValueError(f"{place}: unknown directive `test: {said}`")
        words[verb] = rest
    return words


def commands(step: Step) -> list[tuple[str, list[str]]]:
    """Return the commands of a shell block, each with its shown output.

    In a console block a command starts with `$ ` and continues while a line ends in a backslash or
    is inside quotes; other blocks are one command without output. A console block without `$ `
    returns one empty command: its text is further output of the previous command.
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

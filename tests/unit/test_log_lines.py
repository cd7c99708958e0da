"""What users send can neither forge nor disguise a line of a log, in both planes and formats."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tidemill import logs
from tidemill.border import printable
from tidemill.console import log_files
from tidemill.serving.telemetry.logs import JsonLines, PlainLines

HOSTILE = [
    "a\nERROR forged", "a\r\n2026-01-01 ERROR root: forged", "\x1b[31mred\x1b]0;title\x07", "\x00",
    "a\u2028b", "a\u2029b", "\u202eevil", "\u2066x\u2069", "a\x85b", "a\x0bb\x0cc", "\ud800",
    "\u200b", "\ufeff",
]  # fmt: skip
HIDDEN = set("".join(HOSTILE)) - set("aERO forged2026-01:rt[3m]0;titlebcvx ")
Write = Callable[[logging.LogRecord], str]


def control(style: str) -> Write:
    out = io.StringIO()
    handler = logs._console(out, style == "console", "api")

    def write(record: logging.LogRecord) -> str:
        handler.handle(record)
        return out.getvalue().removesuffix("\n")

    return write


@pytest.fixture(params=["control text", "control json", "data text", "data json"])
def write(request: pytest.FixtureRequest) -> Write:
    return {
        "control text": lambda: control("console"),
        "control json": lambda: control("json"),
        "data text": lambda: PlainLines().format,
        "data json": lambda: JsonLines().format,
    }[request.param]()


def record(message: str, *args: object, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("test", logging.ERROR, "test.py", 1, message, args, None)
    vars(made).update(more)
    return made


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_in_a_message_or_a_field_stays_in_its_line(write: Write, text: str) -> None:
    line = write(record("found %s", text, path=text, nested={"name": [text]}, header=Named(text)))
    assert len(line.splitlines()) == 1
    assert not HIDDEN & set(line)
    line.encode()


@pytest.mark.parametrize("text", HOSTILE)
def test_the_text_of_an_exception_looks_like_no_entry(write: Write, text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError:
        line = write(record("failed", exc_info=sys.exc_info()))
    first, *rest = line.split("\n")
    assert "failed" in first
    assert all(each.startswith("  ") for each in rest)
    assert not (HIDDEN - {"\n"}) & set(line)


@pytest.mark.parametrize("text", HOSTILE)
def test_the_console_shows_no_hidden_character_of_a_file(tmp_path: Path, text: str) -> None:
    lines = [json.dumps({"event": text, "path": text, "exception": text}), text.replace("\n", " ")]
    (tmp_path / "api.log").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    found = log_files.lines(tmp_path, "api.log")
    assert len(found) == 2
    shown = "".join(line.event + line.more for line in found)
    assert not (HIDDEN - {"\n"}) & set(shown)
    shown.encode()


@pytest.mark.parametrize("text", ["plain", "größe", "東京", "עברית", "a b", "🦀"])
def test_readable_text_is_left_as_it_is(text: str) -> None:
    assert printable(text) == text


class Named:
    """An object whose text is hostile."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name

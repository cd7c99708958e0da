"""What every store accepts as text and as an integer, and every log as text.

PostgreSQL refuses NUL in text and integers beyond 64 bits; SQLite refuses those integers, too; and
half a surrogate pair has no UTF-8 form, so that neither a database nor a response can hold it. JSON
can spell all three. See decision 197.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

from tidemill.errors import MalformedError, RequestError

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
MAX_DEPTH = 64
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
#: What a JSON document must contain to hold a value that stores refuse; most contain neither. NUL
#: stands for UTF-16 and UTF-32, and ED A0 to BF is half a surrogate pair as raw bytes: `json.loads`
#: reads both.
_SUSPICIOUS = re.compile(rb"\0|\xed[\xa0-\xbf]|\\u(?:0000|[dD][89a-fA-F])|\d{19}|[eE]\+?\d{2}")


def check_text(text: str, field: str) -> str:
    """Return the text.

    Raises:
        MalformedError: It contains NUL or half a surrogate pair.
    """
    found = _UNSTORABLE.search(text)
    if found is not None:
        raise MalformedError(
            f"'{field}' contains {_name(found.group())}.", field=field, expected="Unicode text"
        )
    return text


def storable(text: str, limit: int | None = None) -> str:
    """Return the text as every store accepts it, cut to `limit` characters.

    For what is recorded about a request, such as its path, and must not be refused.
    """
    return _UNSTORABLE.sub("\ufffd", text)[:limit]


def printable(text: str, *, keep: str = "") -> str:
    r"""Return the text with every character that could forge or disguise a log line escaped.

    Those are control characters (such as newlines and the ESC of terminal sequences), line
    separators, marks of the writing direction, other invisible characters, and halves of surrogate
    pairs; they are written as \\n, \\x1b or \\u2028.

    Args:
        keep: Characters that are left as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character in keep or not _is_hidden(character) else _escaped(character)
        for character in text
    )


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def printable_values(value: Any, *, keep: str = "") -> Any:
    """Return a log entry's value with every text in it printable."""
    if isinstance(value, str):
        return printable(value, keep=keep)
    if isinstance(value, dict):
        return {
            printable(str(name)): printable_values(item, keep=keep) for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [printable_values(item, keep=keep) for item in value]
    plain = value is None or isinstance(value, int | float)
    return value if plain else printable(str(value), keep=keep)


def indented(traceback: str) -> str:
    """Return a traceback, its lines printable and indented, so that none looks like a log entry."""
    return "\n".join(f"  {printable(line)}" for line in traceback.split("\n"))


def check_integer(text: str, field: str, *, low: int = MIN_INTEGER, high: int = MAX_INTEGER) -> int:
    """Return the integer that a text spells in ASCII digits.

    Raises:
        RequestError: It is not an integer, or not between `low` and `high`.
    """
    # The length is checked first: Python refuses to convert thousands of digits.
    if re.fullmatch(r"-?[0-9]{1,19}", text) and low <= int(text) <= high:
        return int(text)
    raise RequestError(
        f"'{text[:40]}' is not a valid '{field}'.",
        field=field,
        expected=f"an integer between {low} and {high}",
    )


def check_json(body: bytes) -> None:
    """Check all texts and integers of a JSON document; what is not JSON is left to the parser.

    Raises:
        MalformedError: A text or a name cannot be stored, or the document is nested too deeply.
        RequestError: An integer does not fit 64 bits.
    """
    if not _SUSPICIOUS.search(body) and body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return
    _check_values(document)


def _check_values(document: Any) -> None:
    pending = [(document, "body", 0)]
    while pending:
        value, where, depth = pending.pop()
        if isinstance(value, str):
            check_text(value, where.removeprefix("body."))
        elif isinstance(value, int):
            _check_bits(value, where)
        elif isinstance(value, list | dict):
            if depth >= MAX_DEPTH:
                raise MalformedError(f"The body is nested deeper than {MAX_DEPTH}.", field="body")
            pending += [(item, name, depth + 1) for name, item in _items(value, where)]


def _items(value: list[Any] | dict[str, Any], where: str) -> list[tuple[str, Any]]:
    if isinstance(value, list):
        return [(f"{where}.{index}", item) for index, item in enumerate(value)]
    return [(f"{where}.{check_text(name, where)[:80]}", item) for name, item in value.items()]


def _check_bits(value: int, where: str) -> None:
    if not MIN_INTEGER <= value <= MAX_INTEGER:
        field = where.removeprefix("body.")
        raise RequestError(
            f"'{field}' does not fit a 64-bit integer.",
            field=field,
            expected=f"an integer between {MIN_INTEGER} and {MAX_INTEGER}",
        )


def _name(character: str) -> str:
    return "a NUL character" if character == "\0" else "half a surrogate pair"

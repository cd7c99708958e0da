"""How the characters of a text file are written."""

from __future__ import annotations

import codecs
from pathlib import Path

SEPARATORS = (",", ";", "\t", "|")
_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def detect_encoding(path: Path) -> str:
    """The first of UTF-16 (with its mark), UTF-8, Windows' and Latin-1 that fits the whole file."""
    with path.open("rb") as file:
        if file.read(2) in _MARKS and _is(path, "utf-16"):
            return "utf-16"
    return next(name for name in ("utf-8", "cp1252", "latin-1") if _is(path, name))


def _is(path: Path, encoding: str) -> bool:
    try:
        with path.open(encoding=encoding) as file:
            return all(True for _ in file)
    except UnicodeError:
        return False

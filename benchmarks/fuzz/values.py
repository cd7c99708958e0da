"""Hostile values, and the raw bytes of HTTP requests."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

TEXTS = [
    "", " ", "0", "-1", "1e999", "NaN", "null", "true", "None", "a" * 300, "a" * 5000, "\x00",
    "a\x00b", "\ud800", "\U0001f600" * 20, "\u202e\u0000", "é" * 64, "İ", "ß",
    "'; DROP TABLE jobs; --",
    "%00", "%", "%zz", "..", "../../etc/passwd", "/", "\\", "//x", "{}", "[]", "${7*7}", "{{7*7}}",
    "<script>alert(1)</script>", "\r\nX-Evil: 1", "\n", "\t", "١٢٣", "1" * 400, "-0", "0x10",
    "1_000",
    "2026-01-01", "2026-13-45T99:99:99Z", "9999-12-31", "iris-classifier", "1", "champion", "@x",
]  # fmt: skip
NUMBERS = [
    0, -1, 1, 2**31, -(2**31) - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**30,
    10**400, 0.5, -0.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"), 1e20, -1e20,
]  # fmt: skip


def scalar(drawn: random.Random) -> Any:
    """A hostile text, number, boolean or null."""
    kind = drawn.random()
    if kind < 0.45:
        return drawn.choice(TEXTS)
    if kind < 0.85:
        return drawn.choice(NUMBERS)
    return drawn.choice([True, False, None])


def tree(drawn: random.Random, depth: int = 3) -> Any:
    """A hostile JSON value of any shape; sometimes nested thousands deep."""
    kind = drawn.random()
    if depth == 0 or kind < 0.5:
        return scalar(drawn)
    if kind < 0.75:
        return [tree(drawn, depth - 1) for _ in range(drawn.randrange(4))]
    return {drawn.choice(TEXTS): tree(drawn, depth - 1) for _ in range(drawn.randrange(4))}


def mutate(drawn: random.Random, value: Any) -> Any:
    """A JSON value with one part replaced, removed, added or repeated."""
    if isinstance(value, dict) and value and drawn.random() < 0.85:
        name = drawn.choice(list(value))
        kind = drawn.random()
        if kind < 0.15:
            return {k: v for k, v in value.items() if k != name}
        if kind < 0.3:
            return {**value, drawn.choice(TEXTS): tree(drawn, 2)}
        return {**value, name: mutate(drawn, value[name])}
    if isinstance(value, list) and value and drawn.random() < 0.85:
        place, kind = drawn.randrange(len(value)), drawn.random()
        if kind < 0.2:
            return value[:place] + value[place + 1 :]
        if kind < 0.4:
            return value + [value[place]] * drawn.choice([1, 10, 300])
        return [*value[:place], mutate(drawn, value[place]), *value[place + 1 :]]
    return tree(drawn)


def to_json(drawn: random.Random, value: Any) -> bytes:
    """JSON, sometimes not quite: NaN, lone surrogates, other encodings, deep nesting."""
    kind = drawn.random()
    if kind < 0.02:
        return b"[" * drawn.choice([50, 1200, 20_000])
    if kind < 0.04:
        return b'{"a":' * 3000 + b"1" + b"}" * 3000
    text = json.dumps(value, ensure_ascii=drawn.random() < 0.5)
    if kind < 0.06:
        return text.encode("utf-16", "surrogatepass")
    if kind < 0.08:
        return b"\xef\xbb\xbf" + text.encode("utf-8", "surrogatepass")
    return text.encode("utf-8", "surrogatepass")


def flip(drawn: random.Random, data: bytes, most: int = 4) -> bytes:
    """Data with some bytes changed, removed or inserted."""
    changed = bytearray(data)
    for _ in range(drawn.randint(1, most)):
        place = drawn.randrange(len(changed) + 1)
        kind = drawn.random()
        if kind < 0.4 and place < len(changed):
            changed[place] = drawn.randrange(256)
        elif kind < 0.7:
            del changed[place : place + drawn.choice([1, 1, 2, 20])]
        else:
            changed[place:place] = drawn.randbytes(drawn.choice([1, 2, 8]))
    return bytes(changed)


def in_path(drawn: random.Random, text: str) -> str:
    """Text as a part of a path or query, mostly quoted as a client does."""
    raw = text.encode("utf-8", "surrogatepass")
    if drawn.random() < 0.9:
        return quote(raw, safe="")
    return "".join(chr(c) if 32 < c < 127 else f"%{c:02x}" for c in raw)


def request(
    drawn: random.Random, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
) -> bytes:
    """A complete HTTP/1.1 request, with a length or in chunks."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if drawn.random() < 0.1 and body:
        lines.append("Transfer-Encoding: chunked")
        content = _chunked(drawn, body)
    else:
        lines += [f"Content-Length: {len(body)}"] if body or method != "GET" else []
        content = body
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogatepass") + content


def _chunked(drawn: random.Random, body: bytes) -> bytes:
    sizes = drawn.choice([1, 7, 100, 10_000])
    pieces = [body[at : at + sizes] for at in range(0, len(body), sizes)][:200]
    pieces.append(body[200 * sizes :])
    extension = drawn.choice(["", "", ";a=b"])
    chunks = [
        f"{len(piece):x}{extension}\r\n".encode() + piece + b"\r\n" for piece in pieces if piece
    ]
    trailer = drawn.choice([b"", b"", b"X-Trailer: 1\r\n"])
    return b"".join(chunks) + b"0\r\n" + trailer + b"\r\n"

"""The documentation page."""

from __future__ import annotations

from typing import Any


def docs_page(document: dict[str, Any]) -> bytes:
    return b""

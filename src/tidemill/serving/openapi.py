"""The OpenAPI document."""

from __future__ import annotations

from typing import Any

from tidemill.serving.routes import Protocol


def document(protocols: list[Protocol], other: dict[str, Any] | None) -> dict[str, Any]:
    return {"openapi": "3.1.0", "info": {"title": "Tidemill", "version": "0"}, "paths": {}}

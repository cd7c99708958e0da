"""JSON Schema and OpenAPI of the native protocol, made from the signatures in service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidemill.serving.fleet import Fleet
    from tidemill.serving.predictor import Predictor


def paths(fleet: Fleet) -> dict[str, Any]:
    return {}


def model_schema(predictor: Predictor) -> dict[str, Any]:
    return {}

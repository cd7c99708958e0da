"""OpenAPI of the status routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tidemill.serving.protocols.openapi import component, error_responses, reference, response

if TYPE_CHECKING:
    from tidemill.serving.model.pool import ModelPool

TEXT: dict[str, Any] = {"type": "string"}
TIME = {"type": "string", "format": "date-time"}


def schemas() -> dict[str, Any]:
    """The component schemas of the status routes."""
    return {
        "Health": _object({"status": {"enum": ["ok"]}, "timestamp": TIME}),
        "Ready": _object(
            {
                "status": {"enum": ["ready", "degraded", "unavailable"]},
                "timestamp": TIME,
                "mlflow": TEXT,
                "redis": TEXT,
                "models": {
                    "type": "object",
                    "additionalProperties": TEXT,
                    "description": "The version in service of each model.",
                },
                "failing": {
                    "type": "array",
                    "items": TEXT,
                    "description": "The models whose last run did not end in time.",
                },
                "shelf": {"type": "object"},
                "journal": {"enum": ["ok", "off", "full", "refusing"]},
                "keys": {"enum": ["ok", "off", "stale"]},
            }
        ),
        "Info": _object(
            {
                "service": TEXT,
                "version": TEXT,
                "default": {"type": ["string", "null"]},
                "models": {"type": "array", "items": reference("ModelInfo")},
            }
        ),
        "ModelInfo": _object(
            {
                "name": TEXT,
                "version": TEXT,
                "digest": {"type": "string", "description": "sha256 of the bundle's manifest."},
                "task": {"enum": ["classification", "regression"]},
                "target": TEXT,
                "inputs": {"type": "array", "items": {"type": "object"}},
                "labels": {"type": "array"},
                "runtime": {"enum": ["onnx", "skops", "pyfunc"]},
                "created": TEXT,
                "metrics": {"type": "object"},
                "source": {"type": "object"},
                "loaded_at": TIME,
                "run_seconds": {
                    "type": "number",
                    "description": "Seconds per run of one row.",
                },
                "challenger": {
                    "type": ["object", "null"],
                    "description": "The challenger's version, and the traffic that it gets.",
                },
            }
        ),
    }


def paths(models: ModelPool) -> dict[str, Any]:
    """The path items of the status routes."""
    found = {
        "/health": _get("health", "Whether the process answers", "Health"),
        "/ready": _get("ready", "Whether predictions can be answered", "Ready"),
        "/info": _get("info", "The models in service", "Info"),
        "/metrics": _plain("metrics", "Metrics for Prometheus", "text/plain"),
        "/openapi.json": _get("openapi", "This document", None),
        "/docs": _plain("docs", "This document as a web page", "text/html"),
    }
    found["/ready"]["get"]["responses"]["503"] = response(
        "No predictions: no model is in service, or a required dependency is unreachable.",
        reference("Ready"),
    )
    for name in sorted(models.predictors):
        item = _get(f"info_{component(name, 'info')}", "Details of the model", "ModelInfo")
        item["get"]["responses"] |= error_responses(404, 503)
        found[f"/models/{quote(name, safe='')}/info"] = item
    return found


def _get(operation: str, summary: str, schema: str | None) -> dict[str, Any]:
    content = reference(schema) if schema else {"type": "object"}
    responses = {"200": response(summary + ".", content), **error_responses(500)}
    return {
        "get": {
            "operationId": operation,
            "summary": summary,
            "tags": ["status"],
            "responses": responses,
        }
    }


def _plain(operation: str, summary: str, media: str) -> dict[str, Any]:
    item = _get(operation, summary, None)
    item["get"]["responses"]["200"]["content"] = {media: {"schema": TEXT}}
    return item


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}

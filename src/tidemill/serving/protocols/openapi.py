"""The OpenAPI 3.1 document: what every protocol says of itself, and what all share."""

from __future__ import annotations

import importlib.metadata
import re
from typing import Any

from tidemill.serving.http.routes import ServingProtocol

REFUSALS = {
    400: "The body cannot be read at all.",
    403: "No key, an unknown or expired one, or one without the scope.",
    404: "No such model, version or path.",
    405: "The path does not take this verb.",
    409: "Several models are in service and none is named.",
    413: "The body is too large.",
    415: "The body's content type or encoding is not one that is read.",
    422: "The input does not fit the model's signature; the problem names the field.",
    429: "Over the caller's share; Retry-After says when to ask again.",
    500: "The server failed; its log says why.",
    503: "Nothing to answer with right now; Retry-After says when to ask again.",
    504: "The model did not come to an answer in time.",
}
PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "An error as RFC 9457 says.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, for a person."},
        "field": {"type": "string", "description": "The input field at fault."},
        "expected": {"type": "string", "description": "What would have been accepted."},
        "remedy": {"type": "string", "description": "What to do next."},
    },
}
SECURITY: list[dict[str, list[str]]] = [{"key": []}, {"bearer": []}]
SCHEMES = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
REPLY_HEADERS: dict[str, Any] = {
    "X-Request-ID": {
        "description": "The request's own id, or the prediction's.",
        "schema": {"type": "string"},
    }
}


def document(
    protocols: list[ServingProtocol], other: dict[str, Any] | None = None, *, keys: bool = True
) -> dict[str, Any]:
    """The document of all protocols, with another app's merged in.

    Args:
        other: The control plane's document; where both know a path, the data plane answers it.
        keys: Whether predictions need a key.
    """
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {"Problem": PROBLEM_SCHEMA}
    for protocol in protocols:
        paths.update(protocol.paths())
        schemas.update(protocol.schemas())
    if not keys:
        _open(paths)
    made = {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidemill",
            "version": importlib.metadata.version("tidemill"),
            "description": "Predictions of the models in service.",
        },
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": dict(SCHEMES)},
    }
    return _merged(made, other) if other else made


def refusals(*codes: int) -> dict[str, Any]:
    """The response objects of the errors a native route may answer with."""
    problem = {"application/problem+json": {"schema": reference("Problem")}}
    found: dict[str, Any] = {}
    for code in codes:
        content: dict[str, Any] = dict(problem)
        if code == 400:
            content["text/plain; charset=utf-8"] = {"schema": {"type": "string"}}
        found[str(code)] = {"description": REFUSALS[code], "content": content}
    return found


def answer(description: str, schema: dict[str, Any], example: Any = None) -> dict[str, Any]:
    """The response object of a JSON answer."""
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {
        "description": description,
        "headers": REPLY_HEADERS,
        "content": {"application/json": content},
    }


def reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def component(model: str, part: str) -> str:
    """The name of a model's schema: `Churn.Request`; what names may not hold is escaped."""
    safe = re.sub(r"[^A-Za-z0-9-]", lambda m: f"_{ord(m[0]):x}_", model)
    return f"{safe}.{part}"


def _open(paths: dict[str, Any]) -> None:
    """Take back that keys are needed."""
    for item in paths.values():
        for operation in item.values():
            if isinstance(operation, dict):
                operation.pop("security", None)


def _merged(made: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Both documents as one; names of the other's components stay as they are."""
    components: dict[str, Any] = dict(other.get("components", {}))
    for kind, entries in made["components"].items():
        components[kind] = {**components.get(kind, {}), **entries}
    paths = {**other.get("paths", {})}
    for path, item in made["paths"].items():
        paths[path] = {**paths.get(path, {}), **item}
    return {**made, "paths": paths, "components": components}

"""The OpenAPI 3.1 document: the descriptions of all protocols, and the parts that they share."""

from __future__ import annotations

import importlib.metadata
import re
from typing import Any

from tidemill.serving.http.routes import ServingProtocol

ERRORS = {
    400: "The body cannot be parsed.",
    403: "The API key is missing, unknown, expired, or lacks the scope.",
    404: "No such model, version or path.",
    405: "The path does not accept this method.",
    409: "Several models are in service, and the request names none.",
    413: "The body is too large.",
    415: "The content type or encoding of the body is not supported.",
    422: "The input does not fit the model's signature; the problem names the field.",
    429: "The caller's rate limit is exceeded; retry after Retry-After seconds.",
    500: "The server failed; see its log.",
    503: "The server cannot answer now; retry after Retry-After seconds.",
    504: "The model did not answer in time.",
}
PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "An error in the format of RFC 9457.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, as a sentence."},
        "field": {"type": "string", "description": "The input field at fault."},
        "expected": {"type": "string", "description": "What the server accepts."},
        "remedy": {"type": "string", "description": "What to do next."},
    },
}
SECURITY: list[dict[str, list[str]]] = [{"key": []}, {"bearer": []}]
SCHEMES = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
RESPONSE_HEADERS: dict[str, Any] = {
    "X-Request-ID": {
        "description": "The id of the request, or else of the prediction.",
        "schema": {"type": "string"},
    }
}


def document(
    protocols: list[ServingProtocol], other: dict[str, Any] | None = None, *, keys: bool = True
) -> dict[str, Any]:
    """The document of all protocols, merged with another app's.

    Args:
        other: The control plane's document. A path in both is answered by the data plane.
        keys: Whether predictions need an API key.
    """
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {"Problem": PROBLEM_SCHEMA}
    for protocol in protocols:
        paths.update(protocol.paths())
        schemas.update(protocol.schemas())
    if not keys:
        _remove_security(paths)
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


def error_responses(*codes: int) -> dict[str, Any]:
    """The response objects for the errors of a native route."""
    problem = {"application/problem+json": {"schema": reference("Problem")}}
    found: dict[str, Any] = {}
    for code in codes:
        content: dict[str, Any] = dict(problem)
        if code == 400:
            content["text/plain; charset=utf-8"] = {"schema": {"type": "string"}}
        found[str(code)] = {"description": ERRORS[code], "content": content}
    return found


def response(description: str, schema: dict[str, Any], example: Any = None) -> dict[str, Any]:
    """The response object for a JSON response."""
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {
        "description": description,
        "headers": RESPONSE_HEADERS,
        "content": {"application/json": content},
    }


def reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def component(model: str, part: str) -> str:
    """The name of a model's schema, as in `Churn.Request`; other characters are escaped."""
    safe = re.sub(r"[^A-Za-z0-9-]", lambda m: f"_{ord(m[0]):x}_", model)
    return f"{safe}.{part}"


def _remove_security(paths: dict[str, Any]) -> None:
    """Declare that no key is needed."""
    for item in paths.values():
        for operation in item.values():
            if isinstance(operation, dict):
                operation.pop("security", None)


def _merged(made: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Both documents as one; components of the other document keep their names."""
    components: dict[str, Any] = dict(other.get("components", {}))
    for kind, entries in made["components"].items():
        components[kind] = {**components.get(kind, {}), **entries}
    paths = {**other.get("paths", {})}
    for path, item in made["paths"].items():
        paths[path] = {**paths.get(path, {}), **item}
    return {**made, "paths": paths, "components": components}

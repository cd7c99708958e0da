"""Write the Postman collection of both planes from the OpenAPI document.

    python scripts/postman.py            # docs/postman/tidemill.postman_collection.json

The collection has a folder for each tag and a request for each route, with bodies from the
document's examples. The served model is the iris bundle of the tests.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/postman/tidemill.postman_collection.json"
SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
MODEL = "iris-classifier"
VARIABLES = {"base_url": "http://127.0.0.1:8000", "api_key": ""}
#: Placeholders for values that only a running server knows.
KNOWN = {"model": MODEL, "name": MODEL, "version": "1", "reason": "requested from Postman"}
METHODS = ("get", "post", "put", "patch", "delete")
DEPTH = 6  # of an example generated from a schema
Json = dict[str, Any]


def document() -> Json:
    """Return the OpenAPI document of a single-port server with the iris model loaded."""
    from tidemill import bundle
    from tidemill.api.app import create_app
    from tidemill.platform import Platform
    from tidemill.serving.service import Service
    from tidemill.serving.settings import load
    from tidemill.serving.shelf.shelf import ShelfState, install_bundle, write_state
    from tidemill.settings import Settings

    source = ROOT / "tests/data/iris-bundle"
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        digest = bundle.read(source).digest
        placed = install_bundle(home / "shelf", MODEL, "1", source, digest)
        write_state(home / "shelf", ShelfState(default=MODEL, models={MODEL: placed}))
        platform = Platform.open(Settings(home=home, tracking_uri="http://127.0.0.1:9"))
        try:
            control = create_app(platform)
            service = Service(load({}, home=str(home)), describe=control.openapi)
            return _loaded(service)
        finally:
            platform.close()


def _loaded(service: Any) -> Json:
    """Fetch the OpenAPI document once the model is loaded."""
    import asyncio

    async def fetch() -> Json:
        await service.start()
        try:
            found: Json = service.openapi()
            return found
        finally:
            await service.stop()

    return asyncio.run(fetch())


def collection(found: Json) -> Json:
    """Convert the document to a Postman collection, version 2.1."""
    folders: dict[str, list[Json]] = {}
    for path, verbs in found["paths"].items():
        for method in METHODS:
            if method in verbs:
                tag = (verbs[method].get("tags") or ["other"])[0]
                folders.setdefault(tag, []).append(_request(found, path, method, verbs[method]))
    return {
        "info": {
            "name": "Tidemill",
            "description": "Every route of Tidemill, generated from its OpenAPI document. Set the "
            "variables `base_url` and `api_key` (the first key is in the file `.tidemill/key`).",
            "schema": SCHEMA,
        },
        "auth": {
            "type": "apikey",
            "apikey": [
                {"key": "key", "value": "X-API-Key", "type": "string"},
                {"key": "value", "value": "{{api_key}}", "type": "string"},
                {"key": "in", "value": "header", "type": "string"},
            ],
        },
        "variable": [{"key": k, "value": v, "type": "string"} for k, v in VARIABLES.items()],
        "item": [{"name": tag, "item": items} for tag, items in sorted(folders.items())],
    }


def _request(found: Json, path: str, method: str, operation: Json) -> Json:
    parameters = [_resolved(found, p) for p in operation.get("parameters", [])]
    request: Json = {
        "method": method.upper(),
        "header": [],
        "url": _url(path, parameters),
        "description": operation.get("description", ""),
    }
    body = _body(found, operation)
    if body is not None:
        kind, text = body
        request["header"] = [{"key": "Content-Type", "value": kind}]
        language = "json" if "json" in kind else "text"
        request["body"] = {
            "mode": "raw", "raw": text, "options": {"raw": {"language": language}},
        }  # fmt: skip
    return {"name": operation.get("summary") or f"{method.upper()} {path}", "request": request}


def _url(path: str, parameters: list[Json]) -> Json:
    parts = [re.sub(r"^\{(.*)\}$", r":\1", part) for part in path.strip("/").split("/")]
    query = [
        _query(p)
        for p in sorted(parameters, key=lambda p: str(p["name"]))  # versions of FastAPI differ
        if p["in"] == "query"
    ]
    url: Json = {
        "raw": "{{base_url}}/" + "/".join(parts),
        "host": ["{{base_url}}"],
        "path": parts,
    }
    names = [part[1:] for part in parts if part.startswith(":")]
    if names:
        url["variable"] = [{"key": n, "value": KNOWN.get(n, "")} for n in names]
    return url | ({"query": query} if query else {})


def _query(parameter: Json) -> Json:
    """Convert a query parameter: enabled if required, otherwise disabled."""
    needed = bool(parameter.get("required"))
    entry = {
        "key": parameter["name"],
        "value": KNOWN.get(parameter["name"], "") if needed else "",
        "description": parameter.get("description", ""),
    }
    return entry if needed else entry | {"disabled": True}


def _body(found: Json, operation: Json) -> tuple[str, str] | None:
    """Return a request's content type and example body; None without a body."""
    wanted = _resolved(found, operation.get("requestBody") or {}).get("content") or {}
    if not wanted:
        return None
    kind = "application/json" if "application/json" in wanted else next(iter(wanted))
    media = wanted[kind]
    for example in (media.get("examples") or {}).values():
        value = _resolved(found, example).get("value")
        return kind, value if isinstance(value, str) else json.dumps(value, indent=2)
    value = media.get("example", _example(found, media.get("schema") or {}))
    return kind, value if isinstance(value, str) else json.dumps(value, indent=2)


def _resolved(found: Json, part: Json) -> Json:
    while "$ref" in part:
        node: Any = found
        for step in part["$ref"].removeprefix("#/").split("/"):
            node = node[step.replace("~1", "/").replace("~0", "~")]
        part = node
    return part


def _example(found: Json, schema: Json, depth: int = DEPTH) -> Any:
    """Return a value of a schema: its example or default, else a minimal value."""
    schema = _resolved(found, schema)
    for name in ("example", "default", "const"):
        if name in schema:
            return schema[name]
    for name in ("examples", "enum"):
        if schema.get(name):
            return schema[name][0]
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name) and depth:
            return _example(found, schema[name][0], depth - 1)
    kind = schema.get("type")
    if kind == "object" and depth:
        parts = schema.get("properties") or {}
        return {
            n: KNOWN.get(n) or _example(found, parts.get(n, {}), depth - 1)
            for n in schema.get("required") or ()
        }
    if kind == "array" and depth:
        return [_example(found, schema.get("items") or {}, depth - 1)]
    return {"integer": 1, "number": 1.0, "boolean": False, "null": None}.get(str(kind), "")


def text() -> str:
    """Return the collection as JSON text."""
    return json.dumps(collection(document()), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the file."""
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(text(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()

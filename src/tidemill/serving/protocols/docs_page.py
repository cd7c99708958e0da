"""The documentation page: the OpenAPI document as one HTML file that loads nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

VERBS = ("get", "post", "put", "patch", "delete")
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --accent: #0b7285; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.8rem; margin-bottom: 0 } h2 { margin-top: 2.5rem; text-transform: capitalize }
details.route { border: 1px solid var(--line); border-radius: .5rem; margin: .5rem 0 }
details.route > summary { padding: .5rem .8rem; cursor: pointer; display: flex; gap: .8rem;
  align-items: baseline; flex-wrap: wrap }
details.route > div { padding: 0 .8rem .8rem; border-top: 1px solid var(--line) }
code, pre { font: .87em/1.45 ui-monospace, monospace }
pre { background: var(--soft); padding: .7rem; border-radius: .4rem; overflow-x: auto }
.verb { font-weight: 700; color: var(--accent); min-width: 3.2rem }
.lock { margin-left: auto; opacity: .7; font-size: .85em }
table { border-collapse: collapse; width: 100% }
td { border-top: 1px solid var(--line); padding: .25rem .5rem; vertical-align: top }
td:first-child { white-space: nowrap; font-weight: 600 }
"""


def docs_page(document: dict[str, Any], url: str = "/openapi.json") -> bytes:
    """The page as UTF-8 HTML; `url` is the document's own."""
    info = document["info"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<title>{escape(info['title'])}</title><style>{STYLE}</style>",
        f"<h1>{escape(info['title'])}</h1>",
        f"<p>{escape(info.get('description', ''))} Version {escape(info['version'])}."
        f' Machine-readable: <a href="{escape(url)}">{escape(url)}</a>.</p>',
        *_groups(document),
    ]
    return "".join(parts).encode()


def _groups(document: dict[str, Any]) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for path, item in document["paths"].items():
        for verb in VERBS:
            if verb in item:
                tag = str(item[verb].get("tags", ["other"])[0])
                groups.setdefault(tag, []).append(_route(document, path, verb, item[verb]))
    for tag, routes in groups.items():
        yield f"<h2>{escape(tag)}</h2>"
        yield from routes


def _route(document: dict[str, Any], path: str, verb: str, operation: dict[str, Any]) -> str:
    lock = (
        '<span class=lock title="needs an API key">key</span>' if operation.get("security") else ""
    )
    return "".join(
        [
            "<details class=route><summary>",
            f"<span class=verb>{verb.upper()}</span><code>{escape(path)}</code>",
            f"<span>{escape(operation.get('summary', ''))}</span>{lock}</summary><div>",
            f"<p>{escape(operation.get('description', ''))}</p>",
            *_parameters(operation),
            *_request(document, path, operation),
            *_responses(document, operation),
            "</div></details>",
        ]
    )


def _parameters(operation: dict[str, Any]) -> Iterator[str]:
    rows = [
        f"<tr><td><code>{escape(p['name'])}</code> in {escape(p['in'])}</td>"
        f"<td>{escape(p.get('description', ''))} {_code(p.get('schema', {}))}</td></tr>"
        for p in operation.get("parameters", [])
        if "name" in p
    ]
    if rows:
        yield "<h3>Parameters</h3><table>" + "".join(rows) + "</table>"


def _request(document: dict[str, Any], path: str, operation: dict[str, Any]) -> Iterator[str]:
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<h3>Body <small>{escape(media)}</small></h3>"
        examples = content.get("examples", {})
        for name, example in examples.items():
            yield f"<p>{escape(name)}</p><pre>{escape(_json(example.get('value')))}</pre>"
        if examples and media == "application/json":
            first = next(iter(examples.values())).get("value")
            yield f"<p>With curl</p><pre>{escape(_curl(path, first))}</pre>"
        yield _schema("Schema", content.get("schema"), document)


def _responses(document: dict[str, Any], operation: dict[str, Any]) -> Iterator[str]:
    yield "<h3>Responses</h3><table>"
    for code, response in operation.get("responses", {}).items():
        schemas = [c.get("schema") for c in response.get("content", {}).values()]
        shown = "".join(_schema("schema", s, document) for s in schemas[:1])
        words = escape(response.get("description", ""))
        yield f"<tr><td>{escape(str(code))}</td><td>{words}{shown}</td></tr>"
    yield "</table>"


def _schema(title: str, schema: Any, document: dict[str, Any]) -> str:
    if not schema:
        return ""
    shown = escape(_json(_resolved(schema, document), indent=2))
    return f"<details><summary>{title}</summary><pre>{shown}</pre></details>"


def _resolved(schema: Any, document: dict[str, Any]) -> Any:
    """The schema with its outermost references resolved."""
    if isinstance(schema, dict) and "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return document.get("components", {}).get("schemas", {}).get(name, schema)
    if isinstance(schema, dict) and "anyOf" in schema:
        return {**schema, "anyOf": [_resolved(each, document) for each in schema["anyOf"]]}
    return schema


def _curl(path: str, body: Any) -> str:
    quoted = _json(body).replace("'", "'\\''")
    return (
        f"curl http://localhost:8000{path} -H 'X-API-Key: ...' \\\n"
        f"  -H 'Content-Type: application/json' -d '{quoted}'"
    )


def _json(value: Any, indent: int | None = None) -> str:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text if len(text) < 4000 else text[:4000] + " ..."


def _code(value: Any) -> str:
    return f"<code>{escape(_json(value))}</code>" if value else ""

"""Requests for the control plane, from its OpenAPI document and the console's forms."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus

from benchmarks.fuzz.values import (
    NUMBERS,
    TEXTS,
    flip,
    in_path,
    mutate,
    request,
    scalar,
    to_json,
    tree,
)

PAGES = (
    "", "models", "models/{}", "models/{}/compare", "models/{}/challenger", "models/{}/promote",
    "models/{}/challenger/traffic", "models/{}/rollback", "models/{}/versions/{}/stage",
    "models/{}/versions/{}/pictures/{}", "models/{}/try", "models/{}/monitoring", "monitoring",
    "jobs",
    "jobs/{}", "train", "audit", "audit/verify", "audit/export", "logs", "requests",
    "requests/export",
    "settings", "settings/keys/{}/revoke", "sign-in", "static/{}",
)  # fmt: skip
ACTIONS = (
    "models/{}/challenger/traffic", "models/{}/promote", "models/{}/rollback",
    "models/{}/versions/{}/stage", "models/{}/predict", "models/{}/score", "models/{}/look",
    "triggers/{}/dismiss", "jobs/{}/cancel", "jobs/{}/repeat", "train", "settings/keys",
    "settings/keys/{}/revoke", "sign-in",
)  # fmt: skip
FIELDS = (
    "version", "share", "mode", "reason", "stage", "name", "scopes", "expires", "model", "only",
    "trials", "seed", "next", "key", "page", "q", "state", "kind", "before", "after", "limit",
    "actor",
    "since", "until", "level", "sepal_length", "sepal_width", "csrf", "file", "left", "right",
    "window",
)  # fmt: skip
#: A stream without an end, and what would make the rest of the run meaningless.
EXCLUDED = ("/events", "/database/clear")


class ControlRequests:
    """Draws requests.

    Args:
        document: The OpenAPI document.
        key: A valid API key with every scope.
        session: Cookie and CSRF token of a console session.
    """

    def __init__(
        self, drawn: random.Random, document: Mapping[str, Any], key: str, session: tuple[str, str]
    ) -> None:
        self._drawn, self._document, self._key = drawn, document, key
        self._cookie, self._csrf = session
        self._operations = [
            (path, method, operation)
            for path, item in document["paths"].items()
            for method, operation in item.items()
            if method in ("get", "post", "put", "delete", "patch") and not path.endswith(EXCLUDED)
        ]

    def draw(self) -> bytes:
        """One request with complete framing."""
        return self._api() if self._drawn.random() < 0.65 else self._console()

    def broken(self) -> bytes:
        """A request whose head was mutated; only for the end of a connection."""
        head, _, body = self.draw().partition(b"\r\n\r\n")
        return flip(self._drawn, head) + b"\r\n\r\n" + body

    def _api(self) -> bytes:
        drawn = self._drawn
        path, method, operation = drawn.choice(self._operations)
        query = []
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path":
                path = path.replace("{" + parameter["name"] + "}", self._part())
            elif parameter["in"] == "query" and drawn.random() < 0.4:
                query.append(f"{parameter['name']}={self._query_value(parameter['schema'])}")
        if drawn.random() < 0.05:
            query.append(f"{in_path(drawn, drawn.choice(TEXTS))}={self._part()}")
        url = path + ("?" + "&".join(query) if query else "")
        headers = self._headers()
        content = operation.get("requestBody", {}).get("content", {})
        if not content:
            return request(drawn, method.upper(), url, headers)
        media = drawn.choice(list(content))
        body = self._body(content[media].get("schema", {}))
        headers["Content-Type"] = (
            media if drawn.random() < 0.95 else drawn.choice(["text/plain", "x/y"])
        )
        return request(drawn, method.upper(), url, headers, body)

    def _body(self, schema: Mapping[str, Any]) -> bytes:
        drawn = self._drawn
        value = self._value(schema)
        if drawn.random() < 0.5:
            value = mutate(drawn, value)
        body = to_json(drawn, value)
        return flip(drawn, body) if drawn.random() < 0.05 else body

    def _value(self, schema: Mapping[str, Any], depth: int = 4) -> Any:
        """A value that fits a schema more or less."""
        drawn = self._drawn
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            schema = self._document["components"]["schemas"].get(name, {})
        if depth == 0 or drawn.random() < 0.03:
            return tree(drawn, 2)
        for several in ("anyOf", "oneOf", "allOf"):
            if several in schema:
                return self._value(drawn.choice(schema[several]), depth - 1)
        if "enum" in schema:
            return drawn.choice(schema["enum"])
        kind = schema.get("type")
        if kind == "object" or "properties" in schema:
            required = schema.get("required", [])
            chosen = [
                n for n in schema.get("properties", {}) if n in required or drawn.random() < 0.4
            ]
            return {name: self._value(schema["properties"][name], depth - 1) for name in chosen}
        if kind == "array":
            count = drawn.choice([0, 1, 1, 2, 30])
            return [self._value(schema.get("items", {}), depth - 1) for _ in range(count)]
        if kind in ("integer", "number"):
            return drawn.choice([1, 2, 0.5, *NUMBERS])
        if kind == "boolean":
            return drawn.random() < 0.5
        return drawn.choice([*TEXTS, "iris-classifier", "1", "champion"])

    def _query_value(self, schema: Mapping[str, Any]) -> str:
        value = self._value(schema) if self._drawn.random() < 0.5 else scalar(self._drawn)
        return in_path(self._drawn, str(value)[:500])

    def _part(self) -> str:
        drawn = self._drawn
        known = ["iris-classifier", "1", "2", "flowers", "0"]
        return in_path(drawn, drawn.choice(known if drawn.random() < 0.5 else TEXTS)) or "x"

    def _headers(self) -> dict[str, str]:
        drawn = self._drawn
        kind = drawn.random()
        if kind < 0.8:
            headers = {"X-API-Key": self._key}
        elif kind < 0.9:
            headers = {"Authorization": drawn.choice(["Bearer tm_x", "Bearer", "Basic !!", "é"])}
        else:
            headers = {}
        if drawn.random() < 0.05:
            headers["Idempotency-Key"] = drawn.choice(["a", "x" * 300, "é", "1"])
        if drawn.random() < 0.03:
            headers["If-None-Match"] = drawn.choice(['"', "*", 'W/"x"', "é"])
        return headers

    def _console(self) -> bytes:
        drawn = self._drawn
        post = drawn.random() < 0.5
        path = drawn.choice(ACTIONS if post else PAGES)
        while "{}" in path:
            path = path.replace("{}", self._part(), 1)
        values = {drawn.choice(FIELDS): self._form_value() for _ in range(drawn.randrange(6))}
        headers = {} if drawn.random() < 0.1 else {"Cookie": self._cookie}
        if not post:
            query = "&".join(f"{name}={value}" for name, value in values.items())
            return request(drawn, "GET", f"/console/{path}?{query}", headers)
        if drawn.random() < 0.9:
            values["csrf"] = quote_plus(self._csrf)
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        body = "&".join(f"{name}={value}" for name, value in values.items()).encode()
        if drawn.random() < 0.1:
            boundary = "multipart/form-data; boundary=x"
            headers["Content-Type"] = boundary
            headers["X-CSRF-Token"] = self._csrf
            body = self._multipart(values)
        if drawn.random() < 0.05:
            body = flip(drawn, body or b"a")
        return request(drawn, "POST", f"/console/{path}", headers, body)

    def _form_value(self) -> str:
        value = scalar(self._drawn)
        text = value if isinstance(value, str) else json.dumps(value)
        return quote_plus(text.encode("utf-8", "surrogatepass"))

    def _multipart(self, values: Mapping[str, str]) -> bytes:
        parts = [
            f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="a.csv"\r\n\r\n'
            f"{value}\r\n"
            for name, value in values.items()
        ]
        return "".join([*parts, "--x--\r\n"]).encode()

"""Settings of both planes, and the control plane's routes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, get_type_hints

from .tables import code, table


def settings_page() -> str:
    """Render every setting of both planes: variable, default and description."""
    from tidemill.serving.settings import ServingSettings
    from tidemill.settings import Settings, environment_variables

    head = ["variable", "default", "description"]
    control = [
        [
            " or ".join(code(variable) for variable in environment_variables(name, field)),
            code(field.default),
            field.description or "",
        ]
        for name, field in Settings.model_fields.items()
    ]
    hints = get_type_hints(ServingSettings, include_extras=True)
    defaults = ServingSettings()
    data = [
        [f"`TIDEMILL_{name.upper()}`", code(getattr(defaults, name)), _described(hints[name])]
        for name in ServingSettings.__struct_fields__
    ]
    lines = [
        "# Settings",
        "",
        "Read from the environment, then (control plane) from the field in `tidemill.toml`, then",
        "the default. A variable with the suffix `_FILE` names a file that contains the value.",
        "",
        "## Control plane",
        "",
        *table(head, control),
        "## Data plane",
        "",
        *table(head, data),
    ]
    return "\n".join(lines)


def routes_page() -> str:
    """Render every route of the control plane: description, scope and parameters."""
    schema = _schema()
    rows = []
    for path, verbs in schema["paths"].items():
        for verb, operation in verbs.items():
            named = [p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"]
            parameters = ", ".join(f"`{name}`" for name in [*named, *_body(schema, operation)])
            words = operation["description"].split("\n")[0]
            rows.append([f"`{verb.upper()} {path}`", words, parameters])
    lines = [
        "# Control plane routes",
        "",
        "Errors are `application/problem+json`. Lists return `items` and `next`; pass `next` as",
        "`cursor` for the next page. The schema is at `/api/openapi.json`, interactive docs at",
        "`/api/docs`. Send the key in `X-API-Key` or `Authorization: Bearer`.",
        "",
        *table(["route", "description", "parameters"], rows),
    ]
    return "\n".join(lines)


def _schema() -> dict[str, Any]:
    from tidemill.api.app import create_app
    from tidemill.platform import Platform
    from tidemill.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        platform = Platform.open(Settings(home=Path(folder)))
        schema: dict[str, Any] = create_app(platform).openapi()
        platform.close()
    return schema


def _body(schema: dict[str, Any], operation: dict[str, Any]) -> list[str]:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    found = content.get("schema", {})
    for option in [found, *found.get("anyOf", ())]:
        if "$ref" in option:
            return list(
                schema["components"]["schemas"][option["$ref"].split("/")[-1]]["properties"]
            )
    return []


def _described(hint: Any) -> str:
    notes = getattr(hint, "__metadata__", ())
    return next((note.description for note in notes if getattr(note, "description", None)), "")

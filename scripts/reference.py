"""Write docs/reference from the code: every setting and every route of the control plane.

python scripts/reference.py          writes
python scripts/reference.py --check  fails when what is there is out of date
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, get_type_hints

FOLDER = Path(__file__).parent.parent / "docs" / "reference"


def settings_page() -> str:
    """Every setting of both planes: its variable, its default, what it is for."""
    from tidemill.serving.settings import ServingSettings
    from tidemill.settings import Settings, variables

    lines = [
        "# Settings",
        "",
        "From the environment, then (control plane) from `tidemill.toml` by the field's name, then",
        "the default. With `_FILE` behind its name a variable names a file that holds the value.",
        "",
        "## Control plane",
        "",
        "| variable | default | what it is for |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        shown = " or ".join(f"`{variable}`" for variable in variables(name, field))
        lines.append(f"| {shown} | {_default(field.default)} | {_cell(field.description)} |")
    lines += ["", "## Data plane", "", "| variable | default | what it is for |", "|---|---|---|"]
    hints = get_type_hints(ServingSettings, include_extras=True)
    defaults = ServingSettings()
    for name in ServingSettings.__struct_fields__:
        default = _default(getattr(defaults, name))
        description = _cell(_described(hints[name]))
        lines.append(f"| `TIDEMILL_{name.upper()}` | {default} | {description} |")
    return "\n".join(lines) + "\n"


def routes_page() -> str:
    """Every route of the control plane: what it does, who may call it, its parameters."""
    schema = _schema()
    lines = [
        "# The control plane's routes",
        "",
        "Errors are `application/problem+json`. Lists give `items` and `next`; give `next` as",
        "`cursor` for the next page. The schema is at `/api/openapi.json`, a page to try it at",
        "`/api/docs`. A key goes in `X-API-Key` or `Authorization: Bearer`.",
        "",
        "| route | what it does | parameters |",
        "|---|---|---|",
    ]
    for path, verbs in schema["paths"].items():
        for verb, operation in verbs.items():
            named = [
                f"`{p['name']}`" for p in operation.get("parameters", ()) if p["in"] == "query"
            ]
            body = _body(schema, operation)
            parameters = ", ".join([*named, *(f"`{field}`" for field in body)])
            words = _cell(operation["description"].split("\n")[0])
            lines.append(f"| `{verb.upper()} {path}` | {words} | {parameters} |")
    return "\n".join(lines) + "\n"


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


def _default(value: Any) -> str:
    return "" if value is None or value == "" else f"`{value}`"


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").strip()


PAGES = {"settings.md": settings_page, "routes.md": routes_page}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    stale = []
    for name, page in PAGES.items():
        path, text = FOLDER / name, page()
        if not path.is_file() or path.read_text() != text:
            stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text)
    if stale and "--check" in sys.argv:
        sys.exit(f"Out of date: {', '.join(stale)}. Run: python scripts/reference.py")


if __name__ == "__main__":
    main()

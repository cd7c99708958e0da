"""The data plane's routes, from the OpenAPI document that it generates for a small model."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from .tables import table

BUNDLE = Path(__file__).parents[2] / "tests" / "data" / "iris-bundle"


def page() -> str:
    """Render every route with its responses, and the meaning of each error."""
    from tidemill.serving.protocols.openapi import ERRORS

    made = _document()
    rows = [
        [
            f"`{verb.upper()} {_template(path)}`",
            _words(operation),
            _scope(operation),
            _answers(operation),
        ]
        for path, verbs in made["paths"].items()
        for verb, operation in verbs.items()
    ]
    lines = [
        "# Data plane routes",
        "",
        "Generated from the OpenAPI document at `/openapi.json`, which also has the schema of each",
        "model's requests and responses, derived from its signature, with an example.",
        "[Serving](../serving.md) describes the row formats and validation.",
        "",
        *table(["route", "description", "key", "answers"], rows),
        "## What a refusal means",
        "",
        *table(["status", "when"], [[str(code), words] for code, words in ERRORS.items()]),
        "## Errors",
        "",
        "Native routes return errors as `application/problem+json`:",
        "",
        *table(
            ["field", "content"],
            [
                [f"`{name}`", part.get("description", "as defined in RFC 9457")]
                for name, part in made["components"]["schemas"]["Problem"]["properties"].items()
            ],
        ),
    ]
    return "\n".join(lines)


def _document() -> dict[str, Any]:
    from tidemill import bundle
    from tidemill.serving.service import Service
    from tidemill.serving.settings import ServingSettings
    from tidemill.serving.shelf import shelf

    async def describe(settings: ServingSettings) -> dict[str, Any]:
        service = Service(settings)
        await service.start()
        try:
            return service.openapi()
        finally:
            await service.stop()

    with tempfile.TemporaryDirectory() as folder:
        shelf_dir = Path(folder) / "shelf"
        digest = bundle.read(BUNDLE).digest
        shelved = shelf.install_bundle(shelf_dir, "iris", "1", BUNDLE, digest)
        shelf.write_state(shelf_dir, shelf.ShelfState(default="iris", models={"iris": shelved}))
        return asyncio.run(describe(ServingSettings(home=folder, journal="off")))


def _template(path: str) -> str:
    return path.replace("/iris", "/{name}").replace("/versions/1", "/versions/{version}")


def _words(operation: dict[str, Any]) -> str:
    words: str = operation.get("summary") or operation.get("description", "").split("\n")[0]
    return words.replace(" species", "")  # the target of the small model


def _scope(operation: dict[str, Any]) -> str:
    return "`predict`" if operation.get("security") else "none"


def _answers(operation: dict[str, Any]) -> str:
    return ", ".join(sorted(operation["responses"]))

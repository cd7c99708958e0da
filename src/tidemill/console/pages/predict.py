"""Try a model: a form generated from its signature, the same request as code, and CSV files."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
from starlette.responses import JSONResponse, Response

from tidemill.console import queries
from tidemill.console.page_request import PageRequest
from tidemill.console.responses import show_page
from tidemill.errors import InputError, NotFoundError, UnavailableError
from tidemill.serving.codec.body_limits import BodyLimits
from tidemill.serving.codec.table_files import csv_records
from tidemill.serving.codec.values import parse_cell

TIMEOUT_SECONDS = 60.0
LIMITS = BodyLimits(rows=5_000, cells=1_000_000)
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class ColumnField:
    """One column of the signature as a form field."""

    name: str
    kind: str
    nullable: bool
    example: Any
    categories: tuple[str, ...] | None = None
    expected: str = ""


def prediction_form(request: PageRequest) -> Response:
    """The form for a served model."""
    name = request.path_params["name"]
    served = queries.served(request)
    info = (served.value or {}).get(name)
    if info is None:
        names = sorted(served.value or {})
        return show_page(
            request, "try.html", {"name": name, "info": None, "served": served, "names": names}
        )
    cached = request.context.cache.get(
        ("schema", name, info["version"]), lambda: _schema(request.serving_url, name), fresh=60.0,
        patience=2.0,
    )  # fmt: skip
    if cached.loading:  # the form is not updated later, so wait for its example
        return show_page(
            request, "try.html", {"name": name, "info": None, "served": cached, "names": []}
        )
    schema = cached.value
    tensor = info["inputs"][0] if "shape" in info["inputs"][0] else None
    example = _example(schema, info, tensor)
    return show_page(request,
        "try.html",
        {
            "name": name,
            "names": sorted(served.value or {}),
            "served": served,
            "info": info,
            "tensor": tensor,
            "image": image_of(tensor),
            "fields": [] if tensor else fields_of(info, schema, example),
            "example": example,
            "snippets": snippets(name, {"features": example}),
            "header": ",".join(column_names(info)[:8]),
        },
    )  # fmt: skip


def predict(request: PageRequest) -> Response:
    """Send one row to the data plane for the user, and return its response.

    Raises:
        UnavailableError: The data plane does not answer.
    """
    answer = _post(request, request.path_params["name"], "predict", request.body_bytes)
    return JSONResponse(_read(answer), answer.status_code)


def score(request: PageRequest) -> Response:
    """Score lines of a CSV file with its header; a script sends large files in pieces.

    Returns one entry per line: the prediction with its confidence, or the line's error.
    """
    info = (queries.served(request).value or {}).get(request.path_params["name"])
    if info is None:
        raise NotFoundError(f"'{request.path_params['name']}' is not served here.", field="name")
    rows = read_csv(request.body_bytes, info)
    answers = _answers(request, [row for row in rows if not isinstance(row, str)])
    results = [{"error": row} if isinstance(row, str) else next(answers) for row in rows]
    return JSONResponse({"labels": [str(label) for label in info["labels"]], "rows": results})


def fields_of(
    info: Mapping[str, Any], schema: Any, example: Mapping[str, Any]
) -> list[ColumnField]:
    """The form's fields, filled with the example."""
    categories = _categories(schema)
    return [
        ColumnField(
            name=column["name"],
            kind=column["kind"],
            nullable=column["nullable"],
            example=example.get(column["name"]),
            categories=categories.get(column["name"]),
            expected=column.get("expected", ""),
        )
        for column in info["inputs"]
    ]


def image_of(tensor: Mapping[str, Any] | None) -> dict[str, int] | None:
    """Height and width, if the tensor can be drawn as a grey picture."""
    shape = [size for size in tensor["shape"] if size != 1] if tensor else []
    if len(shape) != 2 or max(shape) > 128:
        return None
    return {"height": shape[0], "width": shape[1]}


def snippets(name: str, body: Mapping[str, Any]) -> dict[str, str]:
    """The same request in curl, Python and JavaScript; a script fills in the URL and the row."""
    text = json.dumps(body)
    return {
        "curl": (
            f'curl -s ORIGIN/models/{name}/predict -H "X-API-Key: $TIDEMILL_KEY" \\\n'
            f"  -H 'Content-Type: application/json' -d {shlex.quote(text)}"
        ),
        "Python": (
            "import os, httpx\n\n"
            f'answer = httpx.post(\n    "ORIGIN/models/{name}/predict",\n'
            '    headers={"X-API-Key": os.environ["TIDEMILL_KEY"]},\n'
            f'    json={body!r},\n)\nprint(answer.json()["prediction"])'
        ),
        "JavaScript": (
            f'const answer = await fetch("ORIGIN/models/{name}/predict", {{\n  method: "POST",\n'
            '  headers: { "X-API-Key": process.env.TIDEMILL_KEY, '
            '"Content-Type": "application/json" },\n'
            f"  body: JSON.stringify({text}),\n}});\n"
            "console.log((await answer.json()).prediction);"
        ),
    }


def column_names(info: Mapping[str, Any]) -> list[str]:
    """The columns that a file needs; the columns of a tensor are name0, name1, ..."""
    first = info["inputs"][0]
    if "shape" not in first:
        return [column["name"] for column in info["inputs"]]
    size = 1
    for side in first["shape"]:
        size *= side
    return [f"{first['name']}{index}" for index in range(size)]


def read_csv(body: bytes, info: Mapping[str, Any]) -> list[list[Any] | str]:
    """The rows of a CSV file in the signature's order; an error text for an invalid row.

    Raises:
        InputError: The file is not UTF-8, a column is missing, or there are too many rows.
    """
    names = column_names(info)
    header, records = csv_records(body, LIMITS, ragged=True)
    columns = {name: i for i, name in enumerate(header)}
    if missing := [name for name in names if name not in columns]:
        raise InputError(
            f"The file has no column {', '.join(map(repr, missing[:10]))}.",
            field=missing[0],
            expected=f"the columns {', '.join(names[:30])}",
        )
    kinds = [c.get("kind", "number") for c in info["inputs"]] if len(names) > 1 else []
    kinds = kinds if len(kinds) == len(names) else ["number"] * len(names)
    pairs = [(kind, columns[name]) for kind, name in zip(kinds, names, strict=True)]
    return [_row(record, pairs, len(header)) for record in records]


def _row(record: list[str], pairs: list[tuple[Any, int]], width: int) -> list[Any] | str:
    if len(record) != width:
        return "The line has more or fewer cells than the header."
    return [_finite(parse_cell(kind, record[i]), record[i]) for kind, i in pairs]


def _finite(value: Any, cell: str) -> Any:
    """The value; a number that JSON cannot express stays text, and is refused by name."""
    return cell if isinstance(value, float) and not math.isfinite(value) else value


def _answers(request: PageRequest, rows: list[list[Any]]) -> Any:
    """An entry per row: in one batch if possible, split in halves around refused rows."""
    if not rows:
        return iter(())
    whole = _batch(request, rows)
    if whole is not None:
        return iter(whole)
    halves = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    if len(rows) > 1:
        return iter([answer for half in halves for answer in _answers(request, half)])
    answer = _post(
        request, request.path_params["name"], "predict", json.dumps({"features": rows[0]}).encode()
    )
    return iter([_entry(_read(answer))])


def _batch(request: PageRequest, rows: list[list[Any]]) -> list[dict[str, Any]] | None:
    body = json.dumps({"instances": rows}).encode()
    answer = _post(request, request.path_params["name"], "predict_batch", body)
    if answer.status_code == 422:
        return None
    read = _read(answer)
    if answer.status_code != 200:
        raise UnavailableError(str(read.get("detail") or read))
    return [_entry(each) for each in read["predictions"]]


def _entry(answer: Mapping[str, Any]) -> dict[str, Any]:
    if "prediction" not in answer:
        return {"error": answer.get("detail", "refused")}
    return {
        key: answer[key] for key in ("prediction", "confidence", "probabilities") if key in answer
    }


def _post(request: PageRequest, name: str, verb: str, body: bytes) -> httpx.Response:
    request.user.require("predict")
    headers = {**JSON, "X-API-Key": request.context.sessions.ticket(request.user.session)}
    url = f"{request.serving_url}/models/{quote(name, safe='')}/{verb}"
    try:
        return httpx.post(url, content=body, headers=headers, timeout=TIMEOUT_SECONDS)
    except httpx.HTTPError as error:
        raise UnavailableError(
            f"The data plane at {request.serving_url} does not answer: {error}",
            remedy="Check its /ready, or set TIDEMILL_SERVING_URL to its address.",
        ) from error


def _read(answer: httpx.Response) -> dict[str, Any]:
    try:
        read: dict[str, Any] = answer.json()
    except ValueError as error:
        raise UnavailableError("The data plane's response is not JSON.") from error
    return read


def _schema(url: str, name: str) -> dict[str, Any]:
    answer = httpx.get(
        f"{url}/models/{quote(name, safe='')}/schema", timeout=2.0
    ).raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def _example(schema: Any, info: Mapping[str, Any], tensor: Any) -> Any:
    examples = (schema or {}).get("examples", {})
    if tensor:
        return examples.get(tensor["name"], {}).get(tensor["name"], [])
    return examples.get("named", {column["name"]: None for column in info["inputs"]})


def _categories(schema: Any) -> dict[str, tuple[str, ...]]:
    """The categories of text columns, from the schema of a request with named fields."""
    alternatives = ((schema or {}).get("request") or {}).get("anyOf", [])
    generic = {"instances", "features"}
    properties = (each.get("properties", {}) for each in alternatives)
    columns: Mapping[str, Any] = next(
        (found for found in properties if found and not generic & found.keys()), {}
    )
    return {
        name: tuple(text for text in column["enum"] if text is not None)
        for name, column in columns.items()
        if "enum" in column
    }

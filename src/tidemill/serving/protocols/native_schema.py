"""JSON Schema and OpenAPI of the native protocol, built from the models' signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tidemill import datetimes
from tidemill.serving.codec.answer_encoder import label_text
from tidemill.serving.protocols.openapi import (
    SECURITY,
    component,
    error_responses,
    reference,
    response,
)
from tidemill.signature import Column, Label, Signature, Tensor, Value, as_sent

if TYPE_CHECKING:
    from tidemill.serving.model.pool import ModelPool
    from tidemill.serving.model.predictor import Predictor

ERRORS = (400, 403, 404, 413, 415, 422, 429, 500, 503, 504)
#: Numbers beyond these overflow in single precision.
SINGLE = {"exclusiveMinimum": -float(2**128 - 2**103), "exclusiveMaximum": float(2**128 - 2**103)}
INT64 = 1 << 63


def paths(models: ModelPool) -> dict[str, Any]:
    """The path items of the native protocol for the models in service."""
    found: dict[str, Any] = {}
    default = models.default
    for name, predictor in sorted(models.predictors.items()):
        root = f"/models/{quote(name, safe='')}"
        found[f"{root}/predict"] = {"post": _predict(predictor, f"predict_{name}")}
        found[f"{root}/predict_batch"] = {"post": _batch(predictor, f"predict_batch_{name}")}
        found[f"{root}/schema"] = {"get": _schema(f"schema_{name}")}
        if name == default:
            found["/predict"] = {"post": _predict(predictor, "predict")}
            found["/predict_batch"] = {"post": _batch(predictor, "predict_batch")}
            found["/schema"] = {"get": _schema("schema")}
    if default is None:
        found["/predict"] = {"post": _no_default("predict")}
        found["/predict_batch"] = {"post": _no_default("predict_batch")}
        found["/schema"] = {"get": _schema("schema")}
    return found


def schemas(models: ModelPool) -> dict[str, Any]:
    """The component schemas of the models in service."""
    found: dict[str, Any] = {}
    for name, predictor in models.predictors.items():
        parts = _parts(predictor)
        found.update({component(name, part): schema for part, schema in parts.items()})
    return found


def model_schema(predictor: Predictor) -> dict[str, Any]:
    """JSON Schema of one model's requests and responses, with an example of each request format."""
    parts = {name: _inlined(predictor, part) for name, part in _parts(predictor).items()}
    return {
        "model": predictor.name,
        "version": predictor.version,
        "request": parts["Request"],
        "answer": parts["Answer"],
        "batch_request": parts["BatchRequest"],
        "batch_answer": parts["BatchAnswer"],
        "examples": examples(predictor),
    }


def examples(predictor: Predictor) -> dict[str, Any]:
    """A request in each format, from the bundle's example."""
    found = predictor.attached("example", lambda p: p.bundle.example()).rows[:2]
    signature = predictor.signature
    rows = [as_sent(signature, row) for row in found]
    if signature.tensor is not None:
        name = signature.tensor.name
        return {
            name: {name: list(rows[0])},
            "instances": {"instances": [{name: list(row)} for row in rows]},
        }
    named = dict(zip(signature.names, rows[0], strict=True))
    return {
        "features": {"features": list(rows[0])},
        "named features": {"features": named},
        "named": named,
        "instances": {"instances": [list(row) for row in rows]},
    }


def _parts(predictor: Predictor) -> dict[str, Any]:
    signature, name = predictor.signature, predictor.name
    single = predictor.encoder.dtype.name == "float32"
    row = reference(component(name, "Row"))
    if signature.tensor is not None:
        formats = _tensor_formats(signature.tensor)
    else:
        formats = _table_formats(signature, single=single)
    instances = {"instances": {"type": "array", "minItems": 1, "items": row}}
    batch = _object(instances)
    one = _answer(signature, {})
    return {
        "Row": {"anyOf": formats[0]},
        "Request": {"anyOf": [*formats[1], batch]},
        "BatchRequest": batch,
        "Answer": _answer(signature, _identity()),
        "BatchAnswer": {
            "type": "object",
            "required": ["predictions", *_identity()],
            "properties": {
                "predictions": {
                    "type": "array",
                    "items": {
                        **one,
                        "required": [*one["required"], "id"],
                        "properties": {**one["properties"], "id": {"type": "string"}},
                    },
                },
                **_identity(),
            },
        },
    }


def _table_formats(signature: Signature, *, single: bool) -> tuple[list[Any], list[Any]]:
    """The schemas of a row, and of a request for one row."""
    columns = [_column(column, single=single) for column in signature.columns]
    listed = {
        "type": "array",
        "prefixItems": columns,
        "items": False,
        "minItems": len(columns),
        "maxItems": len(columns),
    }
    named = _object(dict(zip(signature.names, columns, strict=True)))
    wrapped = _object({"features": {"anyOf": [listed, named]}})
    return [listed, named, wrapped], [wrapped, named]


def _tensor_formats(tensor: Tensor) -> tuple[list[Any], list[Any]]:
    number: dict[str, Any] = {"type": "number"}
    if tensor.dtype == "float32":
        number |= SINGLE
    flat = {"type": "array", "items": number, "minItems": tensor.size, "maxItems": tensor.size}
    nested: dict[str, Any] = number
    for size in reversed(tensor.shape):
        nested = {"type": "array", "items": nested, "minItems": size, "maxItems": size}
    values = {"anyOf": [flat, nested] if len(tensor.shape) > 1 else [flat]}
    wrapped = [_object({name: values}) for name in dict.fromkeys((tensor.name, "features"))]
    return [values, *wrapped], wrapped


def _column(column: Column, *, single: bool) -> dict[str, Any]:
    if column.format is not None:
        return _datetime(column, column.format)
    kinds = {"number": "number", "integer": "integer", "boolean": "boolean", "text": "string"}
    kind = kinds[column.kind]
    schema: dict[str, Any] = {"type": [kind, "null"] if column.nullable else kind}
    if column.categories is not None:
        nothing: list[Value] = [None] if column.nullable else []
        schema["enum"] = [*column.categories, *nothing]
    if column.kind == "integer":
        schema |= {"minimum": -INT64, "maximum": INT64 - 1}
    if column.kind == "number" and single:
        schema |= SINGLE
    return schema


def _datetime(column: Column, form: str) -> dict[str, Any]:
    """A datetime's schema. `date-time` always has a zone, so other formats do not name it."""
    types = ["integer", "string"] if form in datetimes.EPOCHS else ["string"]
    types += ["null"] if column.nullable else []
    schema: dict[str, Any] = {
        "type": types[0] if len(types) == 1 else types,
        "description": datetimes.in_words(form),
    }
    if datetimes.has_zone(form):
        schema["format"] = "date-time"
    return schema


def _answer(signature: Signature, rest: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {"prediction": _prediction(signature)}
    required = ["prediction", *rest]
    if signature.labels:
        share = {"type": "number", "minimum": 0, "maximum": 1}
        properties["confidence"] = share
        properties["probabilities"] = {
            "type": "object",
            "properties": {label_text(label): share for label in signature.labels},
        }
    return {"type": "object", "required": required, "properties": {**properties, **rest}}


def _prediction(signature: Signature) -> dict[str, Any]:
    if not signature.labels:
        return {"type": "number", "description": signature.target}
    labels: list[Label] = list(signature.labels)
    return {"enum": labels, "description": signature.target}


def _identity() -> dict[str, Any]:
    return {
        "model": {"type": "string"},
        "version": {"type": "string"},
        "id": {"type": "string", "description": "The prediction's id, to send feedback for it."},
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
    }


def _predict(predictor: Predictor, operation: str) -> dict[str, Any]:
    return _operation(
        predictor, operation, ("Request", "Answer"), f"Predict {predictor.signature.target}",
        "One row in any format, or many rows under `instances`.", examples(predictor),
    )  # fmt: skip


def _batch(predictor: Predictor, operation: str) -> dict[str, Any]:
    shown = {"instances": examples(predictor)["instances"]}
    return _operation(
        predictor, operation, ("BatchRequest", "BatchAnswer"),
        f"Predict {predictor.signature.target} for many rows",
        "Rows under `instances`, each in any format for one row.", shown,
    )  # fmt: skip


def _operation(
    predictor: Predictor, operation: str, parts: tuple[str, str], summary: str, description: str,
    shown: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    name, (request, answer) = predictor.name, parts
    schema = reference(component(name, answer))
    if request == "Request":
        schema = {"anyOf": [schema, reference(component(name, "BatchAnswer"))]}
    body = {
        "schema": reference(component(name, request)),
        "examples": {name: {"value": value} for name, value in shown.items()},
    }
    return {
        "operationId": operation,
        "summary": summary,
        "description": f"{description} Model {name}, version {predictor.version}.",
        "tags": ["predict"],
        "security": SECURITY,
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": {"200": response("The predictions.", schema), **error_responses(*ERRORS)},
    }


def _no_default(operation: str) -> dict[str, Any]:
    """`/predict` when no model is the default."""
    body = {"schema": {"type": "object"}}
    return {
        "operationId": operation,
        "summary": "Predict with the default model",
        "description": "There is no default model at the moment: name one in the path.",
        "tags": ["predict"],
        "security": SECURITY,
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": {
            "200": response("The predictions.", body["schema"]),
            **error_responses(*ERRORS, 409),
        },
    }


def _schema(operation: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": "The model's input and output schema",
        "tags": ["describe"],
        "responses": {
            "200": response("JSON Schema of requests and responses.", {"type": "object"}),
            **error_responses(404, 409, 503),
        },
    }


def _inlined(predictor: Predictor, part: Any) -> Any:
    """The schema with references to the row's schema replaced by that schema."""
    row = reference(component(predictor.name, "Row"))
    if part == row:
        return _parts(predictor)["Row"]
    if isinstance(part, dict):
        return {key: _inlined(predictor, value) for key, value in part.items()}
    if isinstance(part, list):
        return [_inlined(predictor, value) for value in part]
    return part

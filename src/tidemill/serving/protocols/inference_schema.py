"""OpenAPI of the Open Inference Protocol, with examples from the models in service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tidemill.serving.protocols.inference_metadata import model_metadata
from tidemill.serving.protocols.openapi import ERRORS, SECURITY, reference, response
from tidemill.serving.protocols.tensors import BYTES, DTYPES
from tidemill.signature import as_sent

if TYPE_CHECKING:
    from tidemill.serving.model.pool import ModelPool
    from tidemill.serving.model.predictor import Predictor

INFER_ERRORS = (400, 403, 404, 413, 415, 429, 500, 503, 504)
WORD = {"type": "string"}
SHAPE = {"type": "array", "items": {"type": "integer"}}


def schemas() -> dict[str, Any]:
    """The component schemas of the protocol."""
    tensor = {
        "name": WORD,
        "shape": {**SHAPE, "minItems": 1, "maxItems": 8},
        "datatype": {"enum": [*DTYPES, BYTES]},
        "data": {"type": "array"},
        "parameters": {"type": "object"},
    }
    return {
        "V2Error": _object({"error": WORD}),
        "V2Tensor": {
            "type": "object",
            "required": ["name", "shape", "datatype"],
            "properties": tensor,
        },
        "V2Request": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": {"type": ["string", "null"]},
                "inputs": {"type": "array", "items": reference("V2Tensor")},
                "parameters": {"type": "object"},
                "outputs": {
                    "type": ["array", "null"],
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": WORD, "parameters": {"type": "object"}},
                    },
                },
            },
        },
        "V2Response": {
            "type": "object",
            "required": ["model_name", "model_version", "id", "outputs"],
            "properties": {
                "model_name": WORD,
                "model_version": WORD,
                "id": WORD,
                "parameters": {"type": "object"},
                "outputs": {"type": "array", "items": reference("V2Tensor")},
            },
        },
    }


def paths(models: ModelPool) -> dict[str, Any]:
    """The path items of the protocol for the models in service."""
    anything = {"type": "object"}
    found: dict[str, Any] = {
        "/v2": {"get": _get("v2_server", "The server's name, version and extensions", anything)},
        "/v2/health/live": {"get": _get("v2_live", "Whether the process answers", anything)},
        "/v2/health/ready": {"get": _get("v2_ready", "Whether models are served", anything, 503)},
        "/v2/repository/index": {"post": _index()},
    }
    for name, predictor in sorted(models.predictors.items()):
        root = f"/v2/models/{quote(name, safe='')}"
        for path, kind in ((root, ""), (f"{root}/versions/{predictor.version}", "_version")):
            own = f"{kind}_{name}"
            metadata = _get(f"v2_metadata{own}", "The model's inputs and outputs", anything, 404)
            ready = _get(f"v2_model_ready{own}", "Whether the model is in service", anything, 404)
            found[path] = {"get": metadata}
            found[f"{path}/ready"] = {"get": ready}
            found[f"{path}/infer"] = {"post": _infer(predictor, f"v2_infer{own}")}
    return found


def example(predictor: Predictor) -> dict[str, Any]:
    """A request with the first row of the bundle's example."""
    found = predictor.attached("example", lambda p: p.bundle.example()).rows[0]
    row = as_sent(predictor.signature, found)
    inputs = model_metadata(predictor)["inputs"]
    values = [list(row)] if predictor.signature.tensor else [[value] for value in row]
    return {
        "inputs": [
            {**entry, "shape": [1, *entry["shape"][1:]], "data": data}
            for entry, data in zip(inputs, values, strict=True)
        ]
    }


def _infer(predictor: Predictor, operation: str) -> dict[str, Any]:
    shown = {"schema": reference("V2Request"), "example": example(predictor)}
    octets = {"schema": {"type": "string", "format": "binary"}}
    good = response("The outputs.", reference("V2Response"))
    good["content"]["application/octet-stream"] = octets
    return {
        "operationId": operation,
        "summary": f"Predict {predictor.signature.target}",
        "tags": ["Open Inference Protocol v2"],
        "security": SECURITY,
        "requestBody": {"required": True, "content": {"application/json": shown}},
        "responses": {"200": good, **_errors(*INFER_ERRORS)},
    }


def _index() -> dict[str, Any]:
    listed = {"type": "array", "items": {"type": "object"}}
    return {
        "operationId": "v2_index",
        "summary": "The models of this server",
        "tags": ["Open Inference Protocol v2"],
        "security": SECURITY,
        "responses": {"200": response("All models.", listed), **_errors(400, 403, 413, 429)},
    }


def _get(operation: str, summary: str, schema: dict[str, Any], *codes: int) -> dict[str, Any]:
    responses = {"200": response(summary, schema), **_errors(*codes, 500)}
    if 503 in codes:
        responses["503"] = response("Not ready.", schema)
    tags = ["Open Inference Protocol v2"]
    return {"operationId": operation, "summary": summary, "tags": tags, "responses": responses}


def _errors(*codes: int) -> dict[str, Any]:
    content = {"application/json": {"schema": reference("V2Error")}}
    return {str(code): {"description": ERRORS[code], "content": content} for code in codes}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}

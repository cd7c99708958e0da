"""OpenAPI of MLflow's scoring protocol, with examples from the models in service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tidemill.serving.protocols.openapi import ERRORS, SECURITY, reference, response
from tidemill.signature import as_sent

if TYPE_CHECKING:
    from tidemill.serving.model.pool import ModelPool
    from tidemill.serving.model.predictor import Predictor

INVOKE_ERRORS = (400, 403, 404, 413, 415, 429, 500, 503, 504)
TAGS = ["MLflow scoring protocol"]


def schemas() -> dict[str, Any]:
    """The component schemas of the protocol."""
    word = {"type": "string"}
    anything: dict[str, Any] = {}
    formats = ("dataframe_split", "dataframe_records", "instances", "inputs")
    return {
        "MlflowError": {
            "type": "object",
            "required": ["error_code", "message"],
            "properties": {"error_code": word, "message": word},
        },
        "MlflowRequest": {
            "oneOf": [
                {
                    "type": "object",
                    "required": [name],
                    "properties": {name: anything, "params": {"type": ["object", "null"]}},
                    "additionalProperties": False,
                }
                for name in formats
            ]
        },
        "MlflowResponse": {
            "type": "object",
            "required": ["predictions"],
            "properties": {"predictions": {"type": "array"}},
        },
    }


def paths(models: ModelPool) -> dict[str, Any]:
    """The path items of the protocol for the models in service."""
    found: dict[str, Any] = {
        "/ping": {"get": _get("ping", "Whether models are served", 404)},
        "/version": {"get": _get("mlflow_version", "The MLflow version of the default model")},
    }
    for name, predictor in sorted(models.predictors.items()):
        found[f"/invocations/{quote(name, safe='')}"] = {"post": _invoke(predictor, f"_{name}")}
        if name == models.default:
            found["/invocations"] = {"post": _invoke(predictor, "")}
    return found


def example(predictor: Predictor) -> dict[str, Any]:
    """A request with the first row of the bundle's example."""
    found = predictor.attached("example", lambda p: p.bundle.example()).rows[0]
    row = as_sent(predictor.signature, found)
    if predictor.signature.tensor is not None:
        return {"inputs": {predictor.signature.tensor.name: [row]}}
    return {"dataframe_split": {"columns": list(predictor.signature.names), "data": [row]}}


def _invoke(predictor: Predictor, suffix: str) -> dict[str, Any]:
    shown = {"schema": reference("MlflowRequest"), "example": example(predictor)}
    octets = {"schema": {"type": "string", "format": "binary"}}
    text = {"schema": {"type": "string"}}
    content = {
        "application/json": shown,
        "text/csv": text,
        "application/vnd.apache.parquet": octets,
    }
    good = response("One prediction per row.", reference("MlflowResponse"))
    return {
        "operationId": f"invocations{suffix}",
        "summary": f"Predict {predictor.signature.target}",
        "tags": TAGS,
        "security": SECURITY,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": good, **_errors(*INVOKE_ERRORS)},
    }


def _get(operation: str, summary: str, *codes: int) -> dict[str, Any]:
    content = {"application/json": {}, "text/html; charset=utf-8": {"schema": {"type": "string"}}}
    responses = {
        "200": {"description": summary, "content": content},
        **{str(c): {"description": ERRORS[c], "content": content} for c in (*codes, 500)},
    }
    return {"operationId": operation, "summary": summary, "tags": TAGS, "responses": responses}


def _errors(*codes: int) -> dict[str, Any]:
    content = {"application/json": {"schema": reference("MlflowError")}}
    return {str(code): {"description": ERRORS[code], "content": content} for code in codes}

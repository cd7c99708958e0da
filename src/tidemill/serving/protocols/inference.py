"""The Open Inference Protocol, version 2, as KServe, Triton and MLServer clients use it.

A table model has one input per column, each of shape [n] or [n, 1]; if all columns are numeric, it
also accepts them as a single matrix [n, columns] with any name. A tensor model has one input, its
tensor. The outputs are `prediction` [n] and, for classifiers, `probabilities` [n, labels]. Tensors
are sent as JSON or, with the binary tensor extension, as bytes after the JSON.
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from tidemill.errors import InputError, MalformedError, TidemillError
from tidemill.serving.codec.body_limits import BodyLimits
from tidemill.serving.codec.outputs import Outputs
from tidemill.serving.codec.tensor_encoder import EncodedRows
from tidemill.serving.http.routes import (
    JSON,
    Request,
    Response,
    Route,
    ServingProtocol,
    json_response,
)
from tidemill.serving.model.predictor import Predictor
from tidemill.serving.protocols import inference_schema
from tidemill.serving.protocols.inference_metadata import model_metadata, model_outputs
from tidemill.serving.protocols.inference_rows import rows_of
from tidemill.serving.protocols.tensors import (
    Array,
    TensorIn,
    datatype_of,
    read_tensors,
    tensor_bytes,
)
from tidemill.signature import Signature

if TYPE_CHECKING:
    from tidemill.serving.model.pool import ModelPool

LENGTH = b"inference-header-content-length"
OCTETS = b"application/octet-stream"
EXTENSIONS = ("binary_tensor_data", "model_repository")


class RequestedOutput(msgspec.Struct):
    """An output that the client requests."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    """The JSON part of an inference request."""

    inputs: list[TensorIn]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[RequestedOutput] | None = None


def protocol(models: ModelPool) -> ServingProtocol:
    """The routes of the protocol and their description."""
    v2 = InferenceHandlers(models)
    routes = [
        Route("GET", "/v2", v2.server, problem=refusal),
        Route("GET", "/v2/health/live", v2.live, problem=refusal),
        Route("GET", "/v2/health/ready", v2.ready, problem=refusal),
        Route("POST", "/v2/repository/index", v2.index, scope="predict", problem=refusal),
    ]
    for root in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        routes += [
            Route("GET", root, v2.metadata, problem=refusal),
            Route("GET", f"{root}/ready", v2.model_ready, problem=refusal),
            Route("POST", f"{root}/infer", v2.infer, scope="predict", problem=refusal, fast=True),
        ]
    return ServingProtocol(
        "inference", routes, lambda: inference_schema.paths(models), inference_schema.schemas
    )


def refusal(error: TidemillError) -> Response:
    """The protocol's error object; every error in the input has status 400."""
    status = 400 if error.status == 422 else error.status
    return json_response({"error": str(error)}, status)


class InferenceHandlers:
    """Handlers of the protocol."""

    def __init__(self, models: ModelPool) -> None:
        self._models = models

    def server(self, request: Request) -> Response:
        """The server's name, version and extensions."""
        version = importlib.metadata.version("tidemill")
        return json_response({"name": "tidemill", "version": version, "extensions": EXTENSIONS})

    def live(self, request: Request) -> Response:
        """Whether the process answers."""
        return json_response({"live": True})

    def ready(self, request: Request) -> Response:
        """Whether models are in service."""
        ready = self._models.is_serving
        return json_response({"ready": ready}, 200 if ready else 503)

    def index(self, request: Request) -> Response:
        """The models in service, and those that cannot be served because of a problem."""
        found = [
            {"name": p.name, "version": p.version, "state": "READY", "reason": ""}
            for _, p in sorted(self._models.predictors.items())
        ]
        for name, problem in sorted(self._models.problems.items()):
            if name and name not in self._models.predictors:
                gone = {"name": name, "version": "", "state": "UNAVAILABLE", "reason": problem}
                found.append(gone)
        return json_response(found)

    def metadata(self, request: Request) -> Response:
        """The inputs and outputs of one model."""
        return json_response(model_metadata(self._find(request)))

    def model_ready(self, request: Request) -> Response:
        """Whether one model, or one version of it, is in service."""
        found = self._find(request)
        return json_response({"name": found.name, "version": found.version, "ready": True})

    def infer(self, request: Request) -> None:
        """Predict."""
        predictor = (
            self._find(request) if "version" in request.params else self._models.pick(request)
        )
        parsed: list[InferRequest] = []

        def read(predictor: Predictor, body: bytes) -> EncodedRows:
            infer_request, tail = read_request(request, predictor.limits)
            parsed.append(infer_request)
            tensors = read_tensors(infer_request.inputs, tail, predictor.limits)
            check_outputs(predictor.signature, infer_request)
            return rows_of(predictor, tensors)

        def finish(request: Request, outputs: Outputs, start: int, stop: int) -> Response:
            return infer_response(predictor, parsed[0], outputs, (start, stop), request.id)

        predictor.submit_body(request, read, finish)

    def _find(self, request: Request) -> Predictor:
        return self._models.find(request.params["name"], request.params.get("version"))


def read_request(request: Request, limits: BodyLimits) -> tuple[InferRequest, bytes]:
    """The JSON part of a request, and the bytes after it.

    Raises:
        MalformedError: The declared length is invalid, or the JSON is not an inference request.
        TooLargeError: The JSON holds too many values.
    """
    declared = request.head.header(LENGTH)
    length = len(request.body)
    if declared is not None:
        if not declared.isdigit() or len(declared) > 15 or int(declared) > length:
            raise MalformedError(
                f"Inference-Header-Content-Length is {declared.decode('latin-1')[:40]!r}, and the "
                f"body has {length} bytes."
            )
        length = int(declared)
    text = request.body[:length]
    limits.check_json(text)
    try:
        infer_request = msgspec.json.decode(text, type=InferRequest)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MalformedError(f"The body is not an inference request: {error}.") from error
    return infer_request, request.body[length:]


def check_outputs(signature: Signature, infer_request: InferRequest) -> None:
    """Refuse a request for an output that the model does not have."""
    known = [output["name"] for output in model_outputs(signature)]
    for output in infer_request.outputs or []:
        if output.name not in known:
            raise InputError(
                f"There is no output '{output.name[:80]}'.",
                field="outputs",
                expected=f"some of {', '.join(known)}",
            )


def infer_response(
    predictor: Predictor,
    infer_request: InferRequest,
    outputs: Outputs,
    span: tuple[int, int],
    request_id: str,
) -> Response:
    """The response: JSON, followed by the outputs that the client requests as bytes."""
    found = _arrays(predictor.signature, outputs, span)
    by_default = bool(infer_request.parameters.get("binary_data_output", False))
    requested = infer_request.outputs or [RequestedOutput(name) for name in found]
    described, tail = [], []
    for output in requested:
        if output.name not in found:  # a classifier without probabilities
            continue
        array = found[output.name]
        entry: dict[str, Any] = {
            "name": output.name, "datatype": datatype_of(array), "shape": list(array.shape),
        }  # fmt: skip
        if output.parameters.get("binary_data", by_default):
            tail.append(tensor_bytes(array))
            entry["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            entry["data"] = array.ravel().tolist()
        described.append(entry)
    head = {
        "model_name": predictor.name,
        "model_version": predictor.version,
        "id": infer_request.id if infer_request.id is not None else request_id,
        "parameters": {"prediction_id": request_id},
        "outputs": described,
    }
    text = msgspec.json.encode(head)
    if not tail:
        return Response(text, content_type=JSON)
    length = (LENGTH, b"%d" % len(text))
    return Response(b"".join([text, *tail]), content_type=OCTETS, headers=(length,))


def _arrays(signature: Signature, outputs: Outputs, span: tuple[int, int]) -> dict[str, Array]:
    found = {"prediction": np.array(outputs.predictions(signature.labels, *span))}
    if outputs.probabilities is not None:
        found["probabilities"] = outputs.probabilities[slice(*span)]
    return found

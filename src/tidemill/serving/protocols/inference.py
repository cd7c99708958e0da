"""The Open Inference Protocol, version 2: what KServe, Triton and MLServer clients speak.

A table model takes one input a column, each of shape [n] or [n, 1]; one whose columns are all
numbers also takes them as a single matrix [n, columns] under any name. A tensor model takes its
tensor. Answers are `prediction` [n] and, from classifiers, `probabilities` [n, labels]. Tensors
travel as JSON or, by the binary tensor extension, as bytes behind the JSON.
"""

from __future__ import annotations

import importlib.metadata
import json
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from tidemill.errors import InputError, MalformedError, TidemillError
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
from tidemill.serving.protocols.tensors import (
    BYTES,
    DTYPES,
    Array,
    TensorIn,
    datatype_of,
    read_tensors,
    tensor_bytes,
)
from tidemill.signature import KIND_WORDS, Column, Kind, Signature, Tensor

if TYPE_CHECKING:
    from tidemill.serving.model.pool import ModelPool

__all__ = ["BYTES", "DTYPES", "InferenceHandlers", "model_metadata", "protocol"]

LENGTH = b"inference-header-content-length"
OCTETS = b"application/octet-stream"
EXTENSIONS = ("binary_tensor_data", "model_repository")
DATATYPES: dict[Kind, str] = {
    "number": "FP64", "integer": "INT64", "boolean": "BOOL", "text": BYTES,
}  # fmt: skip


class RequestedOutput(msgspec.Struct):
    """An output that the client asks for."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    """The JSON of an inference request."""

    inputs: list[TensorIn]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[RequestedOutput] | None = None


def protocol(models: ModelPool) -> ServingProtocol:
    """Routes and description of the protocol."""
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
    """An error as the protocol writes it: a sentence, and 400 for all that is wrong with input."""
    status = 400 if error.status == 422 else error.status
    return json_response({"error": str(error)}, status)


class InferenceHandlers:
    """Handlers of the protocol."""

    def __init__(self, models: ModelPool) -> None:
        self._models = models

    def server(self, request: Request) -> Response:
        """Who answers here."""
        version = importlib.metadata.version("tidemill")
        return json_response({"name": "tidemill", "version": version, "extensions": EXTENSIONS})

    def live(self, request: Request) -> Response:
        """That the process answers."""
        return json_response({"live": True})

    def ready(self, request: Request) -> Response:
        """Whether models are in service."""
        ready = self._models.serves
        return json_response({"ready": ready}, 200 if ready else 503)

    def index(self, request: Request) -> Response:
        """The models in service, and those that should be but have a problem."""
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
        """Answer rows."""
        predictor = (
            self._find(request) if "version" in request.params else self._models.pick(request)
        )
        infer_request, tail = read_request(request)
        tensors = read_tensors(infer_request.inputs, tail)
        check_outputs(predictor.signature, infer_request)
        rows = rows_of(predictor, tensors)

        def finish(request: Request, outputs: Outputs, start: int, stop: int) -> Response:
            return answer(predictor, infer_request, outputs, (start, stop), request.id)

        predictor.submit(request, rows, finish)

    def _find(self, request: Request) -> Predictor:
        return self._models.find(request.params["name"], request.params.get("version"))


def read_request(request: Request) -> tuple[InferRequest, bytes]:
    """The JSON of a request, and the bytes behind it.

    Raises:
        MalformedError: The length is none, or the JSON is not of the protocol.
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
    try:
        infer_request = msgspec.json.decode(request.body[:length], type=InferRequest)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MalformedError(f"The request is not of the protocol: {error}.") from error
    return infer_request, request.body[length:]


def rows_of(predictor: Predictor, tensors: dict[str, Array]) -> EncodedRows:
    """The tensors as checked rows.

    Raises:
        InputError: Names the input and what was expected.
    """
    if not tensors:
        raise InputError("'inputs' is empty.", field="inputs", expected="at least one tensor")
    signature = predictor.signature
    if signature.tensor is not None:
        return predictor.encoder.encode_tensor(_only(signature.tensor, tensors))
    named = set(tensors) == set(signature.names)
    matrix = _stacked(signature, tensors) if named else _matrix(signature, tensors)
    if matrix is not None and (rows := predictor.encoder.encode_matrix(matrix)) is not None:
        return rows
    if not named:
        if matrix is None:
            raise _wrong_inputs(signature, tensors)
        tensors = {name: matrix[:, i] for i, name in enumerate(signature.names)}
    counts = {name: len(array) for name, array in tensors.items()}
    if len(set(counts.values())) != 1:
        raise InputError(f"The inputs have different numbers of rows: {counts}.", field="inputs")
    columns = {c.name: _column(c, tensors[c.name]) for c in signature.columns}
    if not len(next(iter(columns.values()))):
        raise InputError("The inputs have no rows.", field="inputs", expected="at least one row")
    return predictor.encoder.encode_columns(columns)


def model_metadata(predictor: Predictor) -> dict[str, Any]:
    """What one model takes and answers, as the protocol describes it."""
    signature = predictor.signature
    return {
        "name": predictor.name,
        "versions": [predictor.version],
        "platform": f"tidemill_{predictor.bundle.manifest.runtime}",
        "inputs": _inputs(signature),
        "outputs": _outputs(signature),
    }


def check_outputs(signature: Signature, infer_request: InferRequest) -> None:
    """Refuse a request for an output that the model does not have."""
    known = [output["name"] for output in _outputs(signature)]
    for wanted in infer_request.outputs or []:
        if wanted.name not in known:
            raise InputError(
                f"There is no output '{wanted.name[:80]}'.",
                field="outputs",
                expected=f"some of {', '.join(known)}",
            )


def answer(
    predictor: Predictor,
    infer_request: InferRequest,
    outputs: Outputs,
    span: tuple[int, int],
    call_id: str,
) -> Response:
    """The reply, in JSON or with the outputs that the client wants as bytes behind it."""
    found = _arrays(predictor.signature, outputs, span)
    by_default = bool(infer_request.parameters.get("binary_data_output", False))
    wanted = infer_request.outputs or [RequestedOutput(name) for name in found]
    described, tail = [], []
    for output in wanted:
        if output.name not in found:  # a classifier that gives no probabilities
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
        "id": infer_request.id if infer_request.id is not None else call_id,
        "parameters": {"prediction_id": call_id},
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


def _inputs(signature: Signature) -> list[dict[str, Any]]:
    tensor = signature.tensor
    if tensor is not None:
        kind = {"float32": "FP32", "float64": "FP64"}[tensor.dtype]
        return [{"name": tensor.name, "datatype": kind, "shape": [-1, *tensor.shape]}]
    return [
        {"name": column.name, "datatype": DATATYPES[column.kind], "shape": [-1, 1]}
        for column in signature.columns
    ]


def _outputs(signature: Signature) -> list[dict[str, Any]]:
    if not signature.labels:
        return [{"name": "prediction", "datatype": "FP64", "shape": [-1]}]
    kind = datatype_of(np.array(list(signature.labels)))
    return [
        {"name": "prediction", "datatype": kind, "shape": [-1]},
        {"name": "probabilities", "datatype": "FP64", "shape": [-1, len(signature.labels)]},
    ]


def _only(tensor: Tensor, tensors: dict[str, Array]) -> Array:
    """The one tensor of a tensor model."""
    if set(tensors) != {tensor.name}:
        raise InputError(
            f"The inputs are {', '.join(repr(name[:80]) for name in tensors)}.",
            field="inputs",
            expected=f"'{tensor.name}' alone",
        )
    array = tensors[tensor.name]
    if array.dtype.kind not in "fiu":
        raise InputError(
            f"'{tensor.name}' is no tensor of numbers.", field=tensor.name, expected="numbers"
        )
    return array


def _stacked(signature: Signature, tensors: dict[str, Array]) -> Array | None:
    """One matrix of all columns, where each is of numbers and they are of one shape."""
    arrays = [tensors[name] for name in signature.names]
    shape = arrays[0].shape
    if shape[1:] not in ((), (1,)) or any(
        a.shape != shape or a.dtype.kind not in "fiu" for a in arrays
    ):
        return None
    return np.concatenate(arrays).reshape(len(arrays), -1).T


def _matrix(signature: Signature, tensors: dict[str, Array]) -> Array | None:
    """The one matrix that stands for all columns, where that is what was sent."""
    if len(tensors) != 1 or any(c.kind == "text" for c in signature.columns):
        return None
    (matrix,) = tensors.values()
    fits = matrix.ndim == 2 and matrix.shape[1] == len(signature.columns)
    return matrix if fits and matrix.dtype.kind in "fiu" else None


def _column(column: Column, array: Array) -> Array | list[Any]:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(
            f"'{column.name}' has the shape {list(array.shape)}.",
            field=column.name,
            expected=f"[n] or [n, 1]: {KIND_WORDS[column.kind]} for each row",
        )
    if column.kind == "boolean" and array.dtype.kind in "fiu":
        return [_truth(value) for value in array.tolist()]
    return array


def _truth(value: float) -> Any:
    """Zero and one stand for a boolean in a matrix of numbers; the rest is refused by its name."""
    if value != value:
        return None
    return bool(value) if value in (0, 1) else value


def _wrong_inputs(signature: Signature, tensors: dict[str, Array]) -> InputError:
    missing = [name for name in signature.names if name not in tensors]
    unknown = [name for name in tensors if name not in signature.names]
    parts = [f"Missing: {json.dumps(missing[:10])}."] if missing else []
    parts += [f"Unknown: {json.dumps([name[:80] for name in unknown[:10]])}."] if unknown else []
    return InputError(
        " ".join(parts),
        field=(missing or unknown)[0][:80],
        expected=f"the inputs {', '.join(signature.names[:30])}",
    )

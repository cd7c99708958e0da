"""The native protocol: POST /predict, /predict_batch, and the same under /models/{name}."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidemill.serving.codec.answer_encoder import AnswerEncoder
from tidemill.serving.codec.outputs import Outputs
from tidemill.serving.codec.tensor_encoder import EncodedRows
from tidemill.serving.http.routes import (
    JSON_MEDIA,
    Request,
    Response,
    Route,
    ServingProtocol,
    json_response,
)
from tidemill.serving.model.parsing_threads import LARGE_BODY
from tidemill.serving.model.predictor import Predictor
from tidemill.serving.protocols import native_schema

if TYPE_CHECKING:
    from tidemill.serving.model.pool import ModelPool


def protocol(models: ModelPool) -> ServingProtocol:
    """The routes of the native protocol and their description."""
    native = NativeHandlers(models)
    predict: dict[str, Any] = {"scope": "predict", "media": JSON_MEDIA, "fast": True}
    routes = [
        Route("POST", "/predict", native.predict, **predict),
        Route("POST", "/predict_batch", native.predict_batch, **predict),
        Route("POST", "/models/{name}/predict", native.predict, **predict),
        Route("POST", "/models/{name}/predict_batch", native.predict_batch, **predict),
        Route("GET", "/schema", native.schema),
        Route("GET", "/models/{name}/schema", native.schema),
    ]
    return ServingProtocol(
        "native",
        routes,
        lambda: native_schema.paths(models),
        lambda: native_schema.schemas(models),
    )


class NativeHandlers:
    """Handlers of the native protocol."""

    def __init__(self, models: ModelPool) -> None:
        self._models = models

    def predict(self, request: Request) -> None:
        """Predict for one row, or for many under `instances`."""
        predictor = self._models.pick(request)
        version = predictor.attached("native", NativeResponder)
        body = request.body
        if len(body) > LARGE_BODY:
            self._predict_large(request, predictor, version)
            return
        row = None if b'"instances"' in body[:24] else predictor.read_one(body)
        if row is None:
            predictor.submit_body(request, Predictor.read_many, version.finish_many)
        else:
            predictor.submit_row(request, row, version.finish_one)

    def _predict_large(
        self, request: Request, predictor: Predictor, version: NativeResponder
    ) -> None:
        single: list[bool] = []

        def read(predictor: Predictor, body: bytes) -> EncodedRows:
            row = None
            if b'"instances"' not in body[:24]:  # otherwise `read_many` counts the values
                predictor.limits.check_json(body)
                row = predictor.read_one(body)
            single.append(row is not None)
            return predictor.read_many(body) if row is None else predictor.encoder.encode([row])

        def finish(request: Request, outputs: Outputs, start: int, stop: int) -> Response:
            make = version.finish_one if single[0] else version.finish_many
            return make(request, outputs, start, stop)

        predictor.submit_body(request, read, finish)

    def predict_batch(self, request: Request) -> None:
        """Predict for many rows under `instances`."""
        predictor = self._models.pick(request)
        version = predictor.attached("native", NativeResponder)
        predictor.submit_body(request, Predictor.read_many, version.finish_many)

    def schema(self, request: Request) -> Response:
        """The JSON Schema of requests and responses, with examples."""
        return json_response(
            native_schema.model_schema(self._models.find(request.params.get("name")))
        )


class NativeResponder:
    """Builds the responses of one version."""

    def __init__(self, predictor: Predictor) -> None:
        self._encoder = AnswerEncoder(predictor.signature, predictor.name, predictor.version)

    def finish_one(self, request: Request, outputs: Outputs, start: int, stop: int) -> Response:
        return Response(self._encoder.one(outputs, start, request.id))

    def finish_many(self, request: Request, outputs: Outputs, start: int, stop: int) -> Response:
        return Response(self._encoder.many(outputs, start, stop, request.id))

"""The native protocol: POST /predict, /predict_batch, and the same under /models/{name}."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidemill.serving.codec.answer_encoder import AnswerEncoder
from tidemill.serving.codec.outputs import Outputs
from tidemill.serving.http.routes import JSON_MEDIA, Call, Protocol, Reply, Route, json_reply
from tidemill.serving.model.predictor import Predictor
from tidemill.serving.protocols import native_schema

if TYPE_CHECKING:
    from tidemill.serving.model.pool import ModelPool
    from tidemill.serving.service import Service


def protocol(service: Service) -> Protocol:
    """Routes and description of the native protocol."""
    native = Native(service.models)
    predict: dict[str, Any] = {"scope": "predict", "media": JSON_MEDIA, "fast": True}
    routes = [
        Route("POST", "/predict", native.predict, **predict),
        Route("POST", "/predict_batch", native.predict_batch, **predict),
        Route("POST", "/models/{name}/predict", native.predict, **predict),
        Route("POST", "/models/{name}/predict_batch", native.predict_batch, **predict),
        Route("GET", "/schema", native.schema),
        Route("GET", "/models/{name}/schema", native.schema),
    ]
    models = service.models
    return Protocol(
        "native",
        routes,
        lambda: native_schema.paths(models),
        lambda: native_schema.schemas(models),
    )


class Native:
    """Handlers of the native protocol."""

    def __init__(self, models: ModelPool) -> None:
        self._models = models

    def predict(self, call: Call) -> None:
        """One row, or many under `instances`."""
        predictor = self._models.pick(call)
        version = predictor.attached("native", NativeVersion)
        body = call.body
        row = None if b'"instances"' in body[:24] else predictor.read_one(body)
        if row is None:
            predictor.submit(call, predictor.read_many(body), version.finish_many)
        else:
            predictor.submit_row(call, row, version.finish_one)

    def predict_batch(self, call: Call) -> None:
        """Many rows under `instances`."""
        predictor = self._models.pick(call)
        version = predictor.attached("native", NativeVersion)
        predictor.submit(call, predictor.read_many(call.body), version.finish_many)

    def schema(self, call: Call) -> Reply:
        """The JSON Schema of requests and answers, with an example."""
        return json_reply(native_schema.model_schema(self._models.find(call.params.get("name"))))


class NativeVersion:
    """What the native protocol keeps for one version."""

    def __init__(self, predictor: Predictor) -> None:
        self._encoder = AnswerEncoder(predictor.signature, predictor.name, predictor.version)

    def finish_one(self, call: Call, outputs: Outputs, start: int, stop: int) -> Reply:
        return Reply(self._encoder.one(outputs, start, call.id))

    def finish_many(self, call: Call, outputs: Outputs, start: int, stop: int) -> Reply:
        return Reply(self._encoder.many(outputs, start, stop, call.id))

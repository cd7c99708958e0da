"""Serves a model from a Flask app, with the same checks and answers as Tidemill's own server.

    from flask import Flask
    from tidemill.flask import blueprint

    app = Flask(__name__)
    app.register_blueprint(blueprint(".tidemill/shelf", "iris-classifier"), url_prefix="/iris")

Speed depends on the app's server. API keys, rate limits and recording are up to the app.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
from flask import Blueprint, Response, request
from werkzeug.exceptions import HTTPException

from tidemill.errors import MalformedError, TidemillError, TooLargeError
from tidemill.serving.model.scorer import Scorer

MAX_BODY = 16 << 20


def blueprint(
    source: Path | str | Scorer, model: str | None = None, *, max_body: int = MAX_BODY
) -> Blueprint:
    """Routes `GET /health` and `POST /predict` for one model.

    Args:
        source: A bundle's folder, a shelf, or a `Scorer`.
        model: The model's name on the shelf; by default the shelf's default model.
        max_body: Maximum size of a request body, in bytes.

    Raises:
        BundleError: The bundle is corrupt, or answers its example differently than in training.
        InputError: The model is not on the shelf.
    """
    scorer = source if isinstance(source, Scorer) else Scorer.open(source, model)
    routes = Blueprint(f"tidemill-{scorer.name}".replace(".", "-"), __name__)

    @routes.get("/health")
    def health() -> Response:
        now = datetime.now(UTC).isoformat()
        status = {"status": "ok", "timestamp": now, "model": scorer.name, "version": scorer.version}
        return _json(msgspec.json.encode(status))

    @routes.post("/predict")
    def predict() -> Response:
        if (request.content_length or 0) > max_body:
            raise TooLargeError(f"The body is larger than {max_body} bytes.")
        request.max_content_length = max_body  # applies to chunked bodies too
        return _json(scorer.answer(_body(max_body)))

    @routes.errorhandler(TidemillError)
    def show_error(error: TidemillError) -> Response:
        problem = msgspec.json.encode(error.problem())
        return Response(problem, error.status, content_type="application/problem+json")

    return routes


def _body(limit: int) -> bytes:
    try:
        return request.get_data(cache=False)
    except HTTPException as error:
        if error.code == TooLargeError.status:
            raise TooLargeError(f"The body is larger than {limit} bytes.") from error
        raise MalformedError("The body could not be read.") from error


def _json(body: bytes) -> Response:
    return Response(body, content_type="application/json")

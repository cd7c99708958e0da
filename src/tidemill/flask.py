"""A model inside a Flask app: the same checks and answers as Tidemill's own server.

    from flask import Flask
    from tidemill.flask import blueprint

    app = Flask(__name__)
    app.register_blueprint(blueprint(".tidemill/shelf", "iris-classifier"), url_prefix="/iris")

The app's own server does the work, at its own speed; keys, limits and records are the app's affair.
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
    place: Path | str | Scorer, model: str | None = None, *, max_body: int = MAX_BODY
) -> Blueprint:
    """Routes `GET /health` and `POST /predict` for one model.

    Args:
        place: A bundle's folder, a shelf, or a `Scorer`.
        model: The model's name on the shelf; its default when None.
        max_body: The largest request body, in bytes.

    Raises:
        BundleError: The bundle is not whole or does not answer as in training.
        InputError: The shelf holds no such model.
    """
    scorer = place if isinstance(place, Scorer) else Scorer.open(place, model)
    routes = Blueprint(f"tidemill-{scorer.name}".replace(".", "-"), __name__)

    @routes.get("/health")
    def health() -> Response:
        now = datetime.now(UTC).isoformat()
        said = {"status": "ok", "timestamp": now, "model": scorer.name, "version": scorer.version}
        return _json(msgspec.json.encode(said))

    @routes.post("/predict")
    def predict() -> Response:
        if (request.content_length or 0) > max_body:
            raise TooLargeError(f"The body is larger than {max_body} bytes.")
        request.max_content_length = max_body  # holds for chunked bodies as well
        return _json(scorer.answer(_body(max_body)))

    @routes.errorhandler(TidemillError)
    def refused(error: TidemillError) -> Response:
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

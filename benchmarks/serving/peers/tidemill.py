import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.serving.environment import OURS
from benchmarks.serving.peer import Form, Peer, Place, Rows, run_module
from benchmarks.serving.peers import mlflow_frame, mlserver
from benchmarks.serving.server import get, post

JOURNAL_BYTES = 8 << 30


def prepare(place: Place) -> None:
    """A home whose shelf holds both models, and a key that may predict."""
    run_module(place.own_python, "benchmarks.serving.make_home", place.folder)


def command(place: Place, model: str, port: int) -> list[str]:
    home = ["--home", str(place.folder), "--shelf", str(place.folder / "shelf")]
    serve = [str(place.python), "-m", "tidemill.serving", *home]
    return [*serve, "--port", str(port), "--log-level", "warning"]


def environment(place: Place, model: str) -> Mapping[str, str]:
    """Everything stays on. Limits of rate and journal are out of the load's reach, and the cache
    is off, because the load repeats itself."""
    return {
        "TIDEMILL_RATE_LIMIT": "1000000000/minute",
        "TIDEMILL_JOURNAL_MAX_BYTES": str(JOURNAL_BYTES),
        "TIDEMILL_CACHE": "off",
    }


def key(place: Place) -> Mapping[str, str]:
    return {"X-API-Key": (place.folder / "token").read_text()}


def tidy(place: Place) -> None:
    """Take away the journal's closed segments, as ingest does."""
    from tidemill.serving.journal.segments import discard, segments

    for segment in segments(place.folder / "journal"):
        if segment.closed:
            with contextlib.suppress(FileNotFoundError):
                discard(Path(segment.path))


def prove(place: Place, port: int) -> None:
    """Keys, validation, rate limit, request ids, metrics and journal are on."""
    path, rows = "/models/logistic/predict", [[1.0] * 30]
    good = json.dumps({"features": rows[0]}).encode()
    status, _, _ = post(port, path, good, {})
    _demand(status == 403, f"a request without a key is answered with {status}")
    status, _, _ = post(port, path, json.dumps({"features": ["x"] * 30}).encode(), key(place))
    _demand(status == 422, f"a row of texts is answered with {status}")
    _, body, headers = post(port, path, good, {**key(place), "X-Request-ID": "proof"})
    _demand(headers["x-request-id"] == "proof", "the request id is not returned")
    _demand("ratelimit" in headers, "the rate limit is off")
    recorded = (path.read_bytes() for path in (place.folder / "journal").glob("*.journal"))
    answer_id = json.loads(body)["id"].encode()
    _demand(any(answer_id in journal for journal in recorded), "the journal lacks the prediction")
    counted = get(port, "/metrics")
    _demand(b"model_predictions_total" in counted, "predictions are not counted")


def _demand(found: bool, complaint: str) -> None:
    if not found:
        raise RuntimeError(complaint)


def native(rows: Rows, model: str) -> Any:
    return {"features": rows[0]} if len(rows) == 1 else {"instances": rows}


def labels(answer: Any) -> list[int]:
    rows = answer.get("predictions", [answer])
    return [int(row["prediction"]) for row in rows]


PEER = Peer(
    name="tidemill",
    title="Tidemill",
    packages=(OURS,),
    show=("tidemill", "uvicorn", "httptools", "uvloop", "msgspec", "numpy", "onnxruntime"),
    command=command,
    prepare=prepare,
    environment=environment,
    tidy=tidy,
    prove=prove,
    forms=(
        Form(
            path=lambda model: f"/models/{model}/predict",
            encode=native,
            decode=labels,
            headers=key,
        ),
        Form(
            name="invocations",
            title="`/invocations`, DataFrame",
            path=lambda model: f"/invocations/{model}",
            encode=mlflow_frame.encode,
            headers=key,
        ),
        Form(
            name="v2",
            title="Open Inference Protocol v2",
            path=lambda model: f"/v2/models/{model}/infer",
            encode=mlserver.encode,
            decode=lambda answer: list(answer["outputs"][0]["data"]),
            headers=key,
        ),
    ),
)

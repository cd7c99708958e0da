import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.serving.environment import OURS
from benchmarks.serving.peer import Endpoint, Installation, Peer, Rows, run_module
from benchmarks.serving.peers import mlflow_frame, mlserver
from benchmarks.serving.server import get, post

JOURNAL_BYTES = 8 << 30


def prepare(installation: Installation) -> None:
    """Create a home with both models on the shelf and a key with the `predict` scope."""
    run_module(installation.project_python, "benchmarks.serving.make_home", installation.folder)


def command(installation: Installation, model: str, port: int) -> list[str]:
    home = ["--home", str(installation.folder), "--shelf", str(installation.folder / "shelf")]
    serve = [str(installation.python), "-m", "tidemill.serving", *home]
    return [*serve, "--port", str(port), "--log-level", "warning"]


def environment(installation: Installation, model: str) -> Mapping[str, str]:
    """Keep every feature on, with rate and journal limits that the load cannot reach.

    The response cache is off, because the load repeats its requests.
    """
    return {
        "TIDEMILL_RATE_LIMIT": "1000000000/minute",
        "TIDEMILL_JOURNAL_MAX_BYTES": str(JOURNAL_BYTES),
        "TIDEMILL_CACHE": "off",
    }


def key(installation: Installation) -> Mapping[str, str]:
    return {"X-API-Key": (installation.folder / "token").read_text()}


def clean_up(installation: Installation) -> None:
    """Delete the journal's closed segments, as ingest does."""
    from tidemill.serving.journal.segments import discard, segments

    for segment in segments(installation.folder / "journal"):
        if segment.closed:
            with contextlib.suppress(FileNotFoundError):
                discard(Path(segment.path))


def verify(installation: Installation, port: int) -> None:
    """Check that keys, validation, rate limit, request ids, metrics and journal are on."""
    path, rows = "/models/logistic/predict", [[1.0] * 30]
    good = json.dumps({"features": rows[0]}).encode()
    status, _, _ = post(port, path, good, {})
    _require(status == 403, f"a request without a key returned {status}")
    status, _, _ = post(
        port, path, json.dumps({"features": ["x"] * 30}).encode(), key(installation)
    )
    _require(status == 422, f"a row of strings returned {status}")
    _, body, headers = post(port, path, good, {**key(installation), "X-Request-ID": "proof"})
    _require(headers["x-request-id"] == "proof", "the request id is not returned")
    _require("ratelimit" in headers, "the rate limit is off")
    recorded = (path.read_bytes() for path in (installation.folder / "journal").glob("*.journal"))
    answer_id = json.loads(body)["id"].encode()
    _require(
        any(answer_id in journal for journal in recorded), "the prediction is not in the journal"
    )
    counted = get(port, "/metrics")
    _require(b"model_predictions_total" in counted, "predictions are not counted")


def _require(met: bool, message: str) -> None:
    if not met:
        raise RuntimeError(message)


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
    clean_up=clean_up,
    verify=verify,
    endpoints=(
        Endpoint(
            path=lambda model: f"/models/{model}/predict",
            encode=native,
            decode=labels,
            headers=key,
        ),
        Endpoint(
            name="invocations",
            title="`/invocations`, DataFrame",
            path=lambda model: f"/invocations/{model}",
            encode=mlflow_frame.encode,
            headers=key,
        ),
        Endpoint(
            name="v2",
            title="Open Inference Protocol v2",
            path=lambda model: f"/v2/models/{model}/infer",
            encode=mlserver.encode,
            decode=lambda answer: list(answer["outputs"][0]["data"]),
            headers=key,
        ),
    ),
)

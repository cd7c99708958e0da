import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.serving.environment import OURS
from benchmarks.serving.peer import Form, Peer, Place, Rows, run_module
from benchmarks.serving.peers import mlflow_frame, mlserver

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
    from tidemill.serving.segments import discard, segments

    for segment in segments(place.folder / "journal"):
        if segment.closed:
            with contextlib.suppress(FileNotFoundError):
                discard(Path(segment.path))


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

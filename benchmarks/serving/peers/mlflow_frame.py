from collections.abc import Mapping
from typing import Any

from benchmarks.serving.peer import Form, Peer, Place, Rows, run_module
from benchmarks.serving.train import columns

PACKAGES = ("mlflow", "scikit-learn", "pandas")
SHOW = ("mlflow", "scikit-learn", "pandas")


def prepare(place: Place) -> None:
    run_module(place.python, "benchmarks.serving.apps.save_mlflow", place.folder, "frame")


def command(place: Place, model: str, port: int) -> list[str]:
    where = ["--host", "127.0.0.1", "--port", str(port), "--env-manager", "local"]
    uri = str(place.folder / model)
    return [place.script("mlflow"), "models", "serve", "--model-uri", uri, *where]


def environment(place: Place, model: str) -> Mapping[str, str]:
    """`mlflow models serve` starts its server with the first python of the path."""
    path = f"{place.python.parent}:/usr/local/bin:/usr/bin:/bin"
    return {"PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def encode(rows: Rows, model: str) -> Any:
    return {"dataframe_split": {"columns": columns(), "data": rows}}


PEER = Peer(
    name="mlflow-frame",
    title="mlflow models serve, DataFrame signature",
    packages=PACKAGES,
    show=SHOW,
    command=command,
    prepare=prepare,
    environment=environment,
    forms=(Form(path=lambda model: "/invocations", encode=encode),),
)

from collections.abc import Mapping
from typing import Any

from benchmarks.serving.peer import Endpoint, Installation, Peer, Rows, run_module
from benchmarks.serving.train import columns

PACKAGES = ("mlflow", "scikit-learn", "pandas")
SHOW = ("mlflow", "scikit-learn", "pandas")


def prepare(installation: Installation) -> None:
    run_module(
        installation.python, "benchmarks.serving.apps.save_mlflow", installation.folder, "frame"
    )


def command(installation: Installation, model: str, port: int) -> list[str]:
    where = ["--host", "127.0.0.1", "--port", str(port), "--env-manager", "local"]
    uri = str(installation.folder / model)
    return [installation.script("mlflow"), "models", "serve", "--model-uri", uri, *where]


def environment(installation: Installation, model: str) -> Mapping[str, str]:
    """Put the peer's environment first: `mlflow models serve` starts the first python on PATH."""
    path = f"{installation.python.parent}:/usr/local/bin:/usr/bin:/bin"
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
    endpoints=(Endpoint(path=lambda model: "/invocations", encode=encode),),
)

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.serving.peer import Endpoint, Installation, Peer, Rows, train_here
from benchmarks.serving.server import free_port


def prepare(installation: Installation) -> None:
    """Create a folder for each model, as `mlserver start` requires.

    There is no inference pool, which would add a process hop to each request, and no debug log.
    """
    train_here(installation)
    for name in ("logistic", "forest"):
        folder = installation.folder / name
        folder.mkdir()
        model = {
            "name": name,
            "implementation": "mlserver_sklearn.SKLearnModel",
            "parameters": {"uri": installation.model(name), "version": "1"},
        }
        (folder / "model-settings.json").write_text(json.dumps(model))


def command(installation: Installation, model: str, port: int) -> list[str]:
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,
        "debug": False,
    }
    (installation.folder / model / "settings.json").write_text(json.dumps(settings))
    return [installation.script("mlserver"), "start", str(installation.folder / model)]


def environment(installation: Installation, model: str) -> Mapping[str, str]:
    return {}


def encode(rows: Rows, model: str) -> Any:
    tensor = {
        "name": "predict",
        "shape": [len(rows), len(rows[0])],
        "datatype": "FP64",
        "data": [value for row in rows for value in row],
    }
    return {"inputs": [tensor]}


PEER = Peer(
    name="mlserver",
    title="MLServer",
    packages=("mlserver", "mlserver-sklearn"),
    show=("mlserver", "mlserver-sklearn", "scikit-learn"),
    command=command,
    prepare=prepare,
    environment=environment,
    endpoints=(
        Endpoint(
            path=lambda model: f"/v2/models/{model}/infer",
            encode=encode,
            decode=lambda answer: list(answer["outputs"][0]["data"]),
        ),
    ),
)

from dataclasses import replace

from benchmarks.serving.peer import Endpoint, Installation, run_module
from benchmarks.serving.peers import mlflow_frame


def prepare(installation: Installation) -> None:
    run_module(
        installation.python, "benchmarks.serving.apps.save_mlflow", installation.folder, "tensor"
    )


PEER = replace(
    mlflow_frame.PEER,
    name="mlflow-tensor",
    title="mlflow models serve, tensor signature",
    prepare=prepare,
    endpoints=(
        Endpoint(path=lambda model: "/invocations", encode=lambda rows, model: {"inputs": rows}),
    ),
)

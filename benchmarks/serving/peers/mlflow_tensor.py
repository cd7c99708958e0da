from dataclasses import replace

from benchmarks.serving.peer import Form, Place, run_module
from benchmarks.serving.peers import mlflow_frame


def prepare(place: Place) -> None:
    run_module(place.python, "benchmarks.serving.apps.save_mlflow", place.folder, "tensor")


PEER = replace(
    mlflow_frame.PEER,
    name="mlflow-tensor",
    title="mlflow models serve, tensor signature",
    prepare=prepare,
    forms=(Form(path=lambda model: "/invocations", encode=lambda rows, model: {"inputs": rows}),),
)

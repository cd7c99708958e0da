from typing import Any

from benchmarks.serving.peer import Form, Peer, Place, Rows, run_module, uvicorn
from benchmarks.serving.train import columns


def command(place: Place, model: str, port: int) -> list[str]:
    return uvicorn(place, "vetiver_app:app", port)


def prepare(place: Place) -> None:
    run_module(place.python, "benchmarks.serving.train", place.folder, "--frame")


def encode(rows: Rows, model: str) -> Any:
    return [dict(zip(columns(), row, strict=True)) for row in rows]


PEER = Peer(
    name="vetiver",
    title="vetiver",
    packages=("vetiver", "uvicorn[standard]", "scikit-learn"),
    show=("vetiver", "fastapi", "scikit-learn"),
    command=command,
    prepare=prepare,
    forms=(Form(encode=encode, decode=lambda answer: list(answer["predict"])),),
)

from typing import Any

from benchmarks.serving.peer import Endpoint, Installation, Peer, Rows, run_module, uvicorn
from benchmarks.serving.train import columns


def command(installation: Installation, model: str, port: int) -> list[str]:
    return uvicorn(installation, "vetiver_app:app", port)


def prepare(installation: Installation) -> None:
    run_module(installation.python, "benchmarks.serving.train", installation.folder, "--frame")


def encode(rows: Rows, model: str) -> Any:
    return [dict(zip(columns(), row, strict=True)) for row in rows]


PEER = Peer(
    name="vetiver",
    title="vetiver",
    packages=("vetiver", "uvicorn[standard]", "scikit-learn"),
    show=("vetiver", "fastapi", "scikit-learn"),
    command=command,
    prepare=prepare,
    endpoints=(Endpoint(encode=encode, decode=lambda answer: list(answer["predict"])),),
)

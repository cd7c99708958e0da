from collections.abc import Mapping

from benchmarks.serving.peer import Peer, Place, run_module, uvicorn


def prepare(place: Place) -> None:
    run_module(place.own_python, "benchmarks.serving.export_onnx", place.folder)


def environment(place: Place, model: str) -> Mapping[str, str]:
    return {"MODEL": str(place.folder / f"{model}.onnx")}


def command(place: Place, model: str, port: int) -> list[str]:
    return uvicorn(place, "asgi_app:app", port)


PEER = Peer(
    name="limit-asgi",
    title="limit: bare ASGI + ONNX Runtime under uvicorn",
    packages=("uvicorn", "httptools", "uvloop", "msgspec", "numpy", "onnxruntime"),
    show=("uvicorn", "httptools", "uvloop", "msgspec", "numpy", "onnxruntime"),
    command=command,
    prepare=prepare,
    environment=environment,
)

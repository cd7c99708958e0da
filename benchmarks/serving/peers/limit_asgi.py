from collections.abc import Mapping

from benchmarks.serving.peer import Installation, Peer, run_module, uvicorn


def prepare(installation: Installation) -> None:
    run_module(installation.project_python, "benchmarks.serving.export_onnx", installation.folder)


def environment(installation: Installation, model: str) -> Mapping[str, str]:
    return {"MODEL": str(installation.folder / f"{model}.onnx")}


def command(installation: Installation, model: str, port: int) -> list[str]:
    return uvicorn(installation, "asgi_app:app", port)


PEER = Peer(
    name="limit-asgi",
    title="limit: bare ASGI + ONNX Runtime under uvicorn",
    packages=("uvicorn", "httptools", "uvloop", "msgspec", "numpy", "onnxruntime"),
    show=("uvicorn", "httptools", "uvloop", "msgspec", "numpy", "onnxruntime"),
    command=command,
    prepare=prepare,
    environment=environment,
)

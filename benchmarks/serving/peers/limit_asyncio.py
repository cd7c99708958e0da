from dataclasses import replace

from benchmarks.serving.peer import APPS, Installation
from benchmarks.serving.peers import limit_asgi


def command(installation: Installation, model: str, port: int) -> list[str]:
    return [str(installation.python), str(APPS / "asyncio_app.py"), str(port)]


PEER = replace(
    limit_asgi.PEER,
    name="limit-asyncio",
    title="limit: asyncio protocol + httptools + ONNX Runtime",
    command=command,
    home="limit-asgi",
)

from benchmarks.serving.peer import Endpoint, Installation, Peer, uvicorn


def command(installation: Installation, model: str, port: int) -> list[str]:
    return uvicorn(installation, "fastapi_app:app", port)


PEER = Peer(
    name="fastapi",
    title="FastAPI + scikit-learn",
    packages=("fastapi", "uvicorn[standard]", "scikit-learn", "joblib"),
    show=("fastapi", "uvicorn", "scikit-learn"),
    command=command,
    endpoints=(
        Endpoint(name="async", title="`async def`"),
        Endpoint(name="def", title="`def`", path=lambda model: "/predict-in-thread"),
    ),
)

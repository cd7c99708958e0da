from benchmarks.serving.peer import Form, Peer, Place, uvicorn


def command(place: Place, model: str, port: int) -> list[str]:
    return uvicorn(place, "fastapi_app:app", port)


PEER = Peer(
    name="fastapi",
    title="FastAPI + scikit-learn",
    packages=("fastapi", "uvicorn[standard]", "scikit-learn", "joblib"),
    show=("fastapi", "uvicorn", "scikit-learn"),
    command=command,
    forms=(
        Form(name="async", title="`async def`"),
        Form(name="def", title="`def`", path=lambda model: "/predict-in-thread"),
    ),
)

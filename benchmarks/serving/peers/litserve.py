from benchmarks.serving.peer import APPS, Peer, Place


def command(place: Place, model: str, port: int) -> list[str]:
    return [str(place.python), str(APPS / "litserve_app.py"), str(port)]


PEER = Peer(
    name="litserve",
    title="LitServe",
    packages=("litserve", "scikit-learn", "joblib"),
    show=("litserve", "fastapi", "scikit-learn"),
    command=command,
)

from benchmarks.serving.peer import APPS, Installation, Peer


def command(installation: Installation, model: str, port: int) -> list[str]:
    return [str(installation.python), str(APPS / "litserve_app.py"), str(port)]


PEER = Peer(
    name="litserve",
    title="LitServe",
    packages=("litserve", "scikit-learn", "joblib"),
    show=("litserve", "fastapi", "scikit-learn"),
    command=command,
)

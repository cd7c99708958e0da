from collections.abc import Mapping

from benchmarks.serving.peer import APPS, Form, Peer, Place


def command(place: Place, model: str, port: int) -> list[str]:
    where = ["--host", "127.0.0.1", "--port", str(port), "--working-dir", str(APPS)]
    return [place.script("bentoml"), "serve", "bentoml_app:Classifier", "--quiet", *where]


def environment(place: Place, model: str) -> Mapping[str, str]:
    home = str(place.folder / "bentoml")
    return {"MODEL": place.model(model), "BENTOML_HOME": home, "BENTOML_DO_NOT_TRACK": "True"}


PEER = Peer(
    name="bentoml",
    title="BentoML",
    packages=("bentoml", "scikit-learn", "joblib"),
    show=("bentoml", "scikit-learn"),
    command=command,
    environment=environment,
    forms=(Form(decode=lambda answer: list(answer)),),
)

from collections.abc import Mapping

from benchmarks.serving.peer import APPS, Endpoint, Installation, Peer


def command(installation: Installation, model: str, port: int) -> list[str]:
    where = ["--host", "127.0.0.1", "--port", str(port), "--working-dir", str(APPS)]
    return [installation.script("bentoml"), "serve", "bentoml_app:Classifier", "--quiet", *where]


def environment(installation: Installation, model: str) -> Mapping[str, str]:
    home = str(installation.folder / "bentoml")
    return {
        "MODEL": installation.model(model),
        "BENTOML_HOME": home,
        "BENTOML_DO_NOT_TRACK": "True",
    }


PEER = Peer(
    name="bentoml",
    title="BentoML",
    packages=("bentoml", "scikit-learn", "joblib"),
    show=("bentoml", "scikit-learn"),
    command=command,
    environment=environment,
    endpoints=(Endpoint(decode=lambda answer: list(answer)),),
)

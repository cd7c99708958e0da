from benchmarks.serving.peer import APPS, Installation, Peer


def command(installation: Installation, model: str, port: int) -> list[str]:
    bind = ["--bind", f"127.0.0.1:{port}", "--chdir", str(APPS)]
    return [installation.script("gunicorn"), "--workers", "1", *bind, "flask_app:app"]


PEER = Peer(
    name="flask",
    title="Flask + gunicorn + scikit-learn",
    packages=("flask", "gunicorn", "scikit-learn", "joblib"),
    show=("flask", "gunicorn", "scikit-learn"),
    command=command,
)

"""The processes that `tidemill up` and `serve` start: their commands, environment and log files."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tidemill.addresses import bare_host, http_url
from tidemill.cli.local.supervisor import Child
from tidemill.settings import Settings


@dataclass(frozen=True)
class ServerAddresses:
    """The host and ports of the API and of MLflow."""

    host: str = "127.0.0.1"
    port: int = 8000
    mlflow_port: int = 5000

    @property
    def api(self) -> str:
        return http_url(self.host, self.port)

    @property
    def mlflow(self) -> str:
        return http_url(self.host, self.mlflow_port)


def environment(settings: Settings) -> dict[str, str]:
    """The environment of every child process: the home, and the servers in use."""
    env = {
        "TIDEMILL_HOME": str(settings.home),
        "MLFLOW_TRACKING_URI": settings.mlflow_uri,
        "TIDEMILL_LOG_LEVEL": settings.log_level,
        "TIDEMILL_LIMITS_URL": settings.limits_url,
        "PYTHONUNBUFFERED": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    optional = {
        "TIDEMILL_PROJECT": settings.project,
        "TIDEMILL_DATABASE_URL": settings.database_url,
        "TIDEMILL_BROKER_URL": settings.broker_url,
    }
    if settings.broker_uri.startswith("redis"):
        optional["TIDEMILL_REDIS_URL"] = settings.broker_url  # shown by the data plane's /ready
    return env | {name: value for name, value in optional.items() if value}


def api_server(settings: Settings, at: ServerAddresses, name: str = "api") -> Child:
    """Both planes on one port."""
    command = [sys.executable, "-m", "tidemill.api.one_port", "--host", at.host]
    command += ["--port", str(at.port), "--name", name]
    env = environment(settings)
    if settings.tracking_uri is None:
        env["TIDEMILL_MLFLOW_PAGES"] = at.mlflow
    return Child(name, command, settings.logs / f"{name}.out", env)


def sync(settings: Settings, models: list[str], *, trust: bool = False) -> Child:
    """The process that copies bundles from the registry to the shelf.

    Args:
        models: The models to follow; none means all.
        trust: Whether models that run arbitrary code may be loaded.
    """
    command = [sys.executable, "-m", "tidemill.loop.sync", *models, *["--trust"] * trust]
    return Child("sync", command, settings.logs / "sync.out", environment(settings))


def pyfunc_supervisor(settings: Settings, shelf: Path | None = None) -> Child:
    """The process that runs the models which could not be compiled, through MLflow's pyfunc."""
    command = [sys.executable, "-m", "tidemill.loop.sync.pyfunc_supervisor"]
    command += ["--shelf", str(shelf)] if shelf else []
    return Child("pyfunc", command, settings.logs / "pyfunc.out", environment(settings))


def ingest(settings: Settings) -> Child:
    """The process that stores the journal in the database."""
    command = [sys.executable, "-m", "tidemill.loop.ingest"]
    return Child("ingest", command, settings.logs / "ingest.out", environment(settings))


def watch(settings: Settings) -> Child:
    """The process that checks models for drift and decay and opens triggers."""
    command = [sys.executable, "-m", "tidemill.worker.watch"]
    return Child("watch", command, settings.logs / "watch.out", environment(settings))


def worker(settings: Settings, name: str = "worker") -> Child:
    """A process that runs jobs."""
    command = [sys.executable, "-m", "tidemill.worker", "--name", name]
    command += ["--concurrency", str(settings.worker_concurrency)]
    return Child(name, command, settings.logs / f"{name}.out", environment(settings))


def mlflow_server(settings: Settings, at: ServerAddresses, store: str | None = None) -> Child:
    """MLflow's own server: its UI, and its API for other clients.

    Artifacts are read from the local folder, so that programs on this machine need no server.

    Args:
        store: The URL of the server's database; None for the one in the home.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--default-artifact-root"]
    command += [settings.artifact_root.as_uri(), "--no-serve-artifacts", "--workers", "1"]
    command += ["--host", bare_host(at.host) or "0.0.0.0", "--port", str(at.mlflow_port)]
    env = {
        **environment(settings),
        # Every user of the machine can read a command line, and this URL may hold a password.
        "MLFLOW_BACKEND_STORE_URI": store or settings.mlflow_uri,
        # MLflow's job runners evaluate language models. Nothing here uses the five processes, and
        # they would outlive the server.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return Child("mlflow", command, settings.logs / "mlflow.out", env)

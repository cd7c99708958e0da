"""What `tidemill up` starts, as values: which programs, on which ports, with which environment."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tidemill import keyring
from tidemill.cli.local.supervisor import Child
from tidemill.errors import ConflictError
from tidemill.settings import Settings

KEY_FILE = "key"
FIRST_KEY = "first key"


@dataclass(frozen=True)
class ServerAddresses:
    """Where the API and MLflow answer."""

    host: str = "127.0.0.1"
    port: int = 8000
    mlflow_port: int = 5000

    @property
    def api(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def mlflow(self) -> str:
        return f"http://{self.host}:{self.mlflow_port}"


def environment(settings: Settings) -> dict[str, str]:
    """What every child is told: the home, and the servers in force."""
    env = {
        "TIDEMILL_HOME": str(settings.home),
        "MLFLOW_TRACKING_URI": settings.mlflow_uri,
        "TIDEMILL_LOG_LEVEL": settings.log_level,
        "TIDEMILL_LIMITS_URL": settings.limits_url,
        "PYTHONUNBUFFERED": "1",
        # One thread a process suits small machines; training sets its own.
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    named = {
        "TIDEMILL_PROJECT": settings.project,
        "TIDEMILL_DATABASE_URL": settings.database_url,
        "TIDEMILL_BROKER_URL": settings.broker_url,
    }
    if settings.broker_uri.startswith("redis"):
        named["TIDEMILL_REDIS_URL"] = settings.broker_url  # /ready of the data plane shows it
    return env | {name: value for name, value in named.items() if value}


def api_server(settings: Settings, at: ServerAddresses, name: str = "api") -> Child:
    """The data plane with the control plane behind it, on one port."""
    command = [sys.executable, "-m", "tidemill.api.one_port", "--host", at.host]
    command += ["--port", str(at.port), "--name", name]
    env = environment(settings)
    if settings.tracking_uri is None:
        env["TIDEMILL_MLFLOW_PAGES"] = at.mlflow
    return Child(name, command, settings.logs / f"{name}.out", env)


def sync(settings: Settings, models: list[str], *, trust: bool = False) -> Child:
    """The process that brings bundles from the registry to the shelf; no names means all models."""
    command = [sys.executable, "-m", "tidemill.loop.sync", *models, *["--trust"] * trust]
    return Child("sync", command, settings.logs / "sync.out", environment(settings))


def pyfunc_supervisor(settings: Settings, shelf: Path | None = None) -> Child:
    """The process that runs the models which only MLflow's pyfunc can run."""
    command = [sys.executable, "-m", "tidemill.loop.sync.pyfunc_supervisor"]
    command += ["--shelf", str(shelf)] if shelf else []
    return Child("pyfunc", command, settings.logs / "pyfunc.out", environment(settings))


def ingest(settings: Settings) -> Child:
    """The process that stores what the journal holds."""
    command = [sys.executable, "-m", "tidemill.loop.ingest"]
    return Child("ingest", command, settings.logs / "ingest.out", environment(settings))


def watch(settings: Settings) -> Child:
    """The process that compares what comes with training, and triggers what follows."""
    command = [sys.executable, "-m", "tidemill.worker.watch"]
    return Child("watch", command, settings.logs / "watch.out", environment(settings))


def worker(settings: Settings, name: str = "worker") -> Child:
    """A process that carries out jobs."""
    command = [sys.executable, "-m", "tidemill.worker", "--name", name]
    command += ["--concurrency", str(settings.worker_concurrency)]
    return Child(name, command, settings.logs / f"{name}.out", environment(settings))


def mlflow_server(settings: Settings, at: ServerAddresses, store: str | None = None) -> Child:
    """MLflow's own server: its UI, and its API for other clients.

    Artifacts are read from the local folder, so that programs on this machine need no server.

    Args:
        store: The database behind it; None is the one in the home.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--default-artifact-root"]
    command += [str(settings.artifact_root), "--no-serve-artifacts", "--workers", "1"]
    command += ["--host", at.host, "--port", str(at.mlflow_port)]
    env = {
        **environment(settings),
        # Not on the command line, which every user of the machine can read.
        "MLFLOW_BACKEND_STORE_URI": store or settings.mlflow_uri,
        # MLflow's own job runners serve its evaluation of language models; nobody here needs the
        # five processes, and they would outlive the server.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return Child("mlflow", command, settings.logs / "mlflow.out", env)


def check_port(host: str, port: int, option: str) -> None:
    """Refuse a port that another program holds.

    Raises:
        ConflictError: It is taken, or we may not use it; names the option to change.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error})"
            raise ConflictError(
                f"Port {port} on {host} {why}.", remedy=f"Choose another with {option} PORT."
            ) from error


@contextlib.contextmanager
def lock_home(home: Path, at: ServerAddresses) -> Iterator[None]:
    """Keep this home to ourselves while the block runs; the lock goes with the process.

    Raises:
        ConflictError: Another `tidemill up` holds it; says which and where it answers.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / "up.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _held(home, file.read()) from None
        file.truncate(0)
        json.dump({"pid": os.getpid(), "api": at.api, "mlflow": at.mlflow}, file)
        file.flush()
        yield
        file.truncate(0)


def _held(home: Path, text: str) -> ConflictError:
    try:
        holder = json.loads(text)
        who = f"process {holder['pid']}, whose API is at {holder['api']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return ConflictError(
        f"{home} is held by {who}.",
        remedy="Use that one, end it, or choose another home with --home.",
    )


def own_key(settings: Settings) -> str | None:
    """The key that `tidemill up` left for this machine's user."""
    try:
        return (settings.home / KEY_FILE).read_text().strip() or None
    except OSError:
        return None


def ensure_key(settings: Settings, *, recorded: bool = True) -> tuple[Path, bool]:
    """A key for this machine's user in a file only they can read, and whether it was made now.

    The server keeps only its hash; the file is the user's own copy, so that pasted commands work.

    Args:
        recorded: Whether the audit log gets a row, as for every other key; the database must be
            there. A data plane alone has none.

    Raises:
        SettingsError: The database is at another schema.
        UnavailableError: The database cannot be reached; no key was made.
    """
    path = settings.home / KEY_FILE
    if settings.keys_file.exists():
        return path, False
    token = (_recorded_key if recorded else _unrecorded_key)(settings)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token)
    return path, True


def _recorded_key(settings: Settings) -> str:
    from tidemill.platform import Platform  # a second that only the first start pays

    with contextlib.closing(Platform.open(settings)) as platform:
        return platform.keys.create(("admin",), actor="cli", name=FIRST_KEY)[0]


def _unrecorded_key(settings: Settings) -> str:
    ring, token, _ = keyring.add(keyring.new_keyring(), ("admin",), name=FIRST_KEY)
    keyring.save(settings.keys_file, ring)
    return token

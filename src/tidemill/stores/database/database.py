"""Tidemill's own database: SQLite in the home or PostgreSQL, chosen by a URL.

All access is through `Database.read()`, `write()` and `snapshot()`. On SQLite a writing transaction
takes the write lock when it begins (BEGIN IMMEDIATE), so that two writers wait for each other
instead of failing halfway. Whatever call finds that the database cannot be reached raises
UnavailableError.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import Connection, Double, Engine, Executable, create_engine, event, make_url
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from tidemill.errors import RequestError, SettingsError, UnavailableError

WAIT_SECONDS = 20.0
CONNECT_SECONDS = 5
POOL_SIZE, POOL_OVERFLOW = 10, 40  # together more than the threads of the API's pool


class EpochNow(FunctionElement[float]):
    """The database's clock in seconds since the epoch, the same for all workers."""

    type = Double()
    inherit_cache = True


@compiles(EpochNow, "postgresql")
def _postgresql_now(*_: Any, **__: Any) -> str:
    return "EXTRACT(EPOCH FROM clock_timestamp())::double precision"


@compiles(EpochNow, "sqlite")
def _sqlite_now(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


class Database:
    """A pool of connections to one database.

    Args:
        url: `sqlite:///path` or `postgresql+psycopg://...` (also as `postgresql://`).
        wait: Seconds that a statement waits for a lock before it raises UnavailableError.
    """

    def __init__(self, url: str, *, wait: float = WAIT_SECONDS) -> None:
        self.engine = open_engine(url, wait=wait)
        self.dialect = self.engine.dialect.name
        self._writer = self.engine.execution_options(tidemill_writes=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a connection in a reading transaction.

        Raises:
            UnavailableError: The database cannot be reached.
            RequestError: The database cannot hold a value of a statement.
        """
        with _translated(self.engine), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a connection in a writing transaction, committed at the end unless it raises.

        Raises:
            UnavailableError: The database cannot be reached, is locked, or its disk is full.
            RequestError: The database cannot hold a value of a statement; nothing was written.
        """
        with _translated(self.engine), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Open a connection that reads one consistent state, however long it takes."""
        level = "REPEATABLE READ" if self.dialect == "postgresql" else None
        engine = self.engine.execution_options(isolation_level=level) if level else self.engine
        with _translated(self.engine), engine.connect() as connection:
            yield connection

    def rows(self, statement: Executable) -> list[dict[str, Any]]:
        """Return the rows of a query as mappings."""
        with self.read() as connection:
            return [dict(row) for row in connection.execute(statement).mappings()]

    def now(self) -> float:
        """Return the database's clock in seconds since the epoch."""
        with self.read() as connection:
            return float(connection.execute(EpochNow().select()).scalar_one())

    def close(self) -> None:
        self.engine.dispose()


def id_source(clock: Callable[[], int] = time.time_ns) -> Callable[[], str]:
    """Return a function that creates ids of 32 hexadecimal digits, which sort by creation time.

    16 digits are the time in nanoseconds, 16 are random. The ids of one process sort in the order
    of their creation, however coarse its clock is and even when it is set back.
    """
    latest, lock = 0, Lock()

    def next_id() -> str:
        nonlocal latest
        with lock:
            latest = max(clock(), latest + 1)
            return f"{latest:016x}{secrets.token_hex(8)}"

    return next_id


new_row_id = id_source()


def open_engine(url: str, *, wait: float = WAIT_SECONDS) -> Engine:
    """Return an engine for the URL, which connects on first use.

    Raises:
        SettingsError: Tidemill does not support that kind of database.
    """
    parsed = make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed, wait)
    if parsed.get_backend_name() == "postgresql":
        engine = create_engine(
            parsed,
            pool_pre_ping=True,
            pool_size=POOL_SIZE,
            max_overflow=POOL_OVERFLOW,
            pool_timeout=CONNECT_SECONDS,
            connect_args={
                "connect_timeout": CONNECT_SECONDS,
                "application_name": "tidemill",
            },
        )
        event.listen(engine, "connect", _lock_timeout(wait))
        return engine
    raise SettingsError(
        f"Tidemill does not support '{parsed.get_backend_name()}' databases.",
        field="database_url",
        expected="sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME",
    )


def _sqlite_engine(url: Any, wait: float) -> Engine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    # A thread that waits for the lock keeps its connection: reading threads need others.
    engine = create_engine(
        url, pool_size=POOL_SIZE, max_overflow=POOL_OVERFLOW, pool_timeout=CONNECT_SECONDS,
        connect_args={"timeout": wait},
    )  # fmt: skip
    event.listen(engine, "do_connect", _create_privately)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _lock_timeout(wait: float) -> Callable[[Any, Any], None]:
    def prepare(connection: Any, _: Any) -> None:
        connection.execute(f"SET lock_timeout = {round(wait * 1000)}")
        connection.commit()

    return prepare


def _create_privately(_: Any, __: Any, arguments: Any, ___: Any) -> None:
    """Create a new file for this user alone; SQLite gives the files beside it the same mode."""
    path = Path(arguments[0])
    if path.is_absolute() and not path.exists():
        with suppress(OSError):  # SQLite's own error says more
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _prepare_sqlite(connection: Any, _: Any) -> None:
    # Keeps the driver from opening transactions: `_begin_sqlite` opens the right kind.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("tidemill_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise _unavailable(engine, error) from error
    except (DataError, OverflowError, UnicodeEncodeError) as error:
        raise _unstorable(error) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise _unavailable(engine, error) from error
        raise


def _unstorable(error: Exception) -> RequestError:
    """The last line behind `tidemill.border`: SQLite's driver raises two of these unwrapped."""
    cause = str(getattr(error, "orig", None) or error).strip().splitlines()
    return RequestError(
        f"A value does not fit the database: {cause[0] if cause else type(error).__name__}"
    )


def _unavailable(engine: Engine, error: Exception) -> UnavailableError:
    cause = str(getattr(error, "orig", None) or error).strip().splitlines()
    where = engine.url.render_as_string(hide_password=True)
    return UnavailableError(
        f"The database {where} cannot be used: {cause[0] if cause else type(error).__name__}",
        remedy="Check it with `tidemill doctor`.",
    )

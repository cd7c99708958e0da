"""The servers of `tidemill up --scaled`: PostgreSQL, Redis and MLflow.

Servers that the settings name are used; the others are started on loopback. See decision 055.
"""

from __future__ import annotations

import os
import secrets
import shlex
from functools import partial

import psycopg
from sqlalchemy import make_url

from tidemill.cli.local import process_specs, servers
from tidemill.cli.local.greeting import is_answering
from tidemill.cli.local.process_specs import ServerAddresses
from tidemill.cli.local.supervisor import Supervisor
from tidemill.errors import SettingsError
from tidemill.settings import Settings
from tidemill.stores.database.database import Database
from tidemill.stores.database.schema import check_schema, migrate, schema_version

START_SECONDS = 600.0  # MLflow creates its tables at the first start
MLFLOW_SUFFIX = "_mlflow"
ENVIRONMENT_FILE = "scaled.env"


def start_servers(supervisor: Supervisor, settings: Settings, at: ServerAddresses) -> Settings:
    """Start the servers that the settings do not name; returns settings that name all of them.

    Raises:
        UnavailableError: A program is not installed, or a server does not become ready.
        SettingsError: The database is not PostgreSQL, or has another schema version.
    """
    settings = _on_postgresql(supervisor, settings)
    settings = _on_redis(supervisor, settings)
    if settings.tracking_uri is None:
        store = _create_database(settings, MLFLOW_SUFFIX)
        mlflow = supervisor.start(process_specs.mlflow_server(settings, at, store))
        answering = partial(is_answering, f"{at.mlflow}/health")
        supervisor.wait_until(answering, "MLflow", START_SECONDS, needed=[mlflow])
        settings = settings.model_copy(update={"tracking_uri": at.mlflow})
    _write_environment(settings)
    return settings


def _on_postgresql(supervisor: Supervisor, settings: Settings) -> Settings:
    if settings.database_url is None:
        started = servers.postgresql(settings.home, settings.logs)
        child = supervisor.start(started.child)
        accepts = partial(_logs_in, started.url)
        supervisor.wait_until(accepts, "PostgreSQL", START_SECONDS, needed=[child])
        settings = settings.model_copy(update={"database_url": started.url})
        settings = settings.model_copy(update={"database_url": _create_database(settings)})
    elif not settings.database_url.startswith("postgres"):
        raise SettingsError(
            "--scaled needs a PostgreSQL database.",
            field="database_url",
            expected="postgresql+psycopg://USER@HOST/NAME",
        )
    database = Database(settings.database_uri)
    try:
        if schema_version(database) is None:
            migrate(database)
        check_schema(database)
    finally:
        database.close()
    return settings


def _on_redis(supervisor: Supervisor, settings: Settings) -> Settings:
    url = settings.broker_url
    if url is None:
        started = servers.redis(settings.home, settings.logs)
        child = supervisor.start(started.child)
        supervisor.wait_until(started.answers, "Redis", START_SECONDS, needed=[child])
        url = started.url
    update = {"broker_url": url}
    if settings.limits_url.startswith("memory") and url.startswith("redis"):
        update["limits_url"] = url
    return settings.model_copy(update=update)


def _logs_in(url: str) -> bool:
    """Whether PostgreSQL lets its user in: after a crash it first recovers behind an open port."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        psycopg.connect(plain, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def _create_database(settings: Settings, suffix: str = "") -> str:
    """Create a database on the configured server if it is missing; returns its URL."""
    url = make_url(settings.database_uri)
    name = f"{url.database}{suffix}" if suffix else servers.USER
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        with psycopg.connect(plain, autocommit=True) as connection:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            if connection.execute(query, [name]).fetchone() is None:
                connection.execute(f'CREATE DATABASE "{name}"')
    except psycopg.Error as error:
        raise SettingsError(
            f"The database '{name}' cannot be created: {str(error).strip()}",
            field="database_url",
            remedy="Create it yourself, or start MLflow yourself and set MLFLOW_TRACKING_URI.",
        ) from error
    return url.set(database=name).render_as_string(hide_password=False)


def _write_environment(settings: Settings) -> None:
    """Write a shell file that makes other commands on this machine use the same servers."""
    env = process_specs.environment(settings)
    env.pop("PYTHONUNBUFFERED")
    lines = [f"{name}={shlex.quote(value)}" for name, value in env.items()]
    path = settings.home / ENVIRONMENT_FILE
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")
    draft.replace(path)

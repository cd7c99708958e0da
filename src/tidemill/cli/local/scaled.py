"""The servers under `tidemill up --scaled`: PostgreSQL, Redis and MLflow.

What the settings name is used; what they do not name is started, on loopback.
"""

from __future__ import annotations

import os
import secrets

from sqlalchemy import make_url

from tidemill.cli.local import process_specs, servers
from tidemill.cli.local.greeting import is_answering
from tidemill.cli.local.process_specs import ServerAddresses
from tidemill.cli.local.supervisor import Supervisor
from tidemill.errors import SettingsError
from tidemill.settings import Settings
from tidemill.stores.database.database import Database
from tidemill.stores.database.schema import check_schema, migrate, schema_version

START_SECONDS = 600.0  # MLflow makes its tables at the first start
MLFLOW_SUFFIX = "_mlflow"
ENVIRONMENT_FILE = "scaled.env"


def start_servers(supervisor: Supervisor, settings: Settings, at: ServerAddresses) -> Settings:
    """Start what is not named: PostgreSQL, Redis, MLflow; the settings then name all of it.

    Raises:
        UnavailableError: A program is not installed, or a server does not come up.
        SettingsError: The named database is of another kind, or at another schema.
    """
    settings = _on_postgresql(supervisor, settings)
    settings = _on_redis(supervisor, settings)
    if settings.tracking_uri is None:
        store = _make_database(settings, MLFLOW_SUFFIX)
        supervisor.start(process_specs.mlflow_server(settings, at, store))
        supervisor.wait_until(lambda: is_answering(f"{at.mlflow}/health"), "MLflow", START_SECONDS)
        settings = settings.model_copy(update={"tracking_uri": at.mlflow})
    _write_environment(settings)
    return settings


def _on_postgresql(supervisor: Supervisor, settings: Settings) -> Settings:
    if settings.database_url is None:
        started = servers.postgresql(settings.home, settings.logs)
        supervisor.start(started.child)
        supervisor.wait_until(started.answers, "PostgreSQL", START_SECONDS)
        settings = settings.model_copy(update={"database_url": started.url})
        settings = settings.model_copy(update={"database_url": _make_database(settings)})
    elif not settings.database_url.startswith("postgres"):
        raise SettingsError(
            "Many processes need a PostgreSQL.",
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
        supervisor.start(started.child)
        supervisor.wait_until(started.answers, "Redis", START_SECONDS)
        url = started.url
    named = {"broker_url": url}
    if settings.limits_url.startswith("memory") and url.startswith("redis"):
        named["limits_url"] = url
    return settings.model_copy(update=named)


def _make_database(settings: Settings, suffix: str = "") -> str:
    """The URL of a database beside the one that is named, made when it is not there."""
    import psycopg

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
            f"The database '{name}' cannot be made: {str(error).strip()}",
            field="database_url",
            remedy="Make it yourself, or start MLflow yourself and set MLFLOW_TRACKING_URI.",
        ) from error
    return url.set(database=name).render_as_string(hide_password=False)


def _write_environment(settings: Settings) -> None:
    """What other commands on this machine are to be told, to be read by a shell."""
    told = process_specs.environment(settings)
    lines = [f"{name}='{value}'" for name, value in told.items() if name != "PYTHONUNBUFFERED"]
    path = settings.home / ENVIRONMENT_FILE
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")
    draft.replace(path)

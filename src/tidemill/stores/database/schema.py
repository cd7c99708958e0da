"""Bringing a database to this Tidemill's schema, and refusing to work with another one."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from tidemill.errors import SettingsError
from tidemill.settings import Settings
from tidemill.stores.database.database import Database

SCRIPTS = Path(__file__).parents[2] / "migrations"
VERSION_TABLE = "tidemill_schema"
# Any number does, as long as nobody else in the database uses it.
MIGRATION_LOCK = 7_305_451


def migrate(database: Database, target: str = "head") -> tuple[str | None, str | None]:
    """Bring the schema to `target`; several processes may call this at once.

    Returns:
        The version before and the version after; None is an empty database.
    """
    with database.write() as connection:
        if database.dialect == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
        before = _version(connection)
        config = _config(connection)
        if target == "base" or _is_behind(before, target):
            move = command.downgrade if target == "base" else command.upgrade
            move(config, target)
        return before, _version(connection)


def open_database(settings: Settings) -> Database:
    """The database of the settings, at this Tidemill's schema.

    The embedded database in the home is brought up to date by itself; another one only by
    `tidemill migrate`, because others may be working with it.

    Raises:
        SettingsError: The database is at another schema, or its URL is of an unknown kind.
        UnavailableError: The database cannot be reached.
    """
    database = Database(settings.database_uri)
    try:
        if settings.database_url is None:
            migrate(database)
        check_schema(database)
    except BaseException:
        database.close()
        raise
    return database


def schema_version(database: Database) -> str | None:
    """The version the database is at; None when it holds no Tidemill tables."""
    with database.read() as connection:
        return _version(connection)


def newest_version() -> str:
    """The version this Tidemill was written for."""
    head = _scripts().get_current_head()
    assert head is not None, "the package carries at least one migration"
    return head


def check_schema(database: Database) -> None:
    """Refuse a database whose schema is not the one this Tidemill was written for.

    Raises:
        SettingsError: The schema is absent, older or newer; the remedy says what to do.
    """
    found, wanted = schema_version(database), newest_version()
    if found == wanted:
        return
    where = database.engine.url.render_as_string(hide_password=True)
    if found is None:
        raise SettingsError(
            f"The database {where} holds no Tidemill tables.", remedy="Run `tidemill migrate`."
        )
    if found in {script.revision for script in _scripts().walk_revisions()}:
        raise SettingsError(
            f"The database {where} is at schema {found}; this Tidemill needs {wanted}.",
            remedy="Run `tidemill migrate`, after a backup.",
        )
    raise SettingsError(
        f"The database {where} is at schema {found}, which this Tidemill does not know.",
        remedy="It was migrated by a newer Tidemill: install that version here too.",
    )


def _is_behind(found: str | None, target: str) -> bool:
    """Whether an upgrade is called for; a database from the future is left alone."""
    known = {script.revision for script in _scripts().walk_revisions()}
    if found is not None and found not in known:
        raise SettingsError(
            f"The database is at schema {found}, which this Tidemill does not know.",
            remedy="It was migrated by a newer Tidemill: install that version here too.",
        )
    return found != (newest_version() if target == "head" else target)


def _version(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(SCRIPTS))


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config

"""Migrates a database to this version's schema, and rejects a database with another one."""

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
# An arbitrary number that nothing else in the database uses.
MIGRATION_LOCK = 7_305_451


def migrate(database: Database, target: str = "head") -> tuple[str | None, str | None]:
    """Migrate the schema to `target`; several processes may call this at once.

    Returns:
        The version before and the version after; None for an empty database.
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
    """Open the database of the settings and check its schema.

    The embedded database in the home is migrated automatically; any other only by
    `tidemill migrate`, because others may be using it.

    Raises:
        SettingsError: The database has another schema version, or its URL is not supported.
        UnavailableError: The database cannot be reached.
    """
    database = Database(settings.database_uri, wait=settings.database_wait)
    try:
        if settings.database_url is None:
            migrate(database)
        check_schema(database)
    except BaseException:
        database.close()
        raise
    return database


def schema_version(database: Database) -> str | None:
    """Return the database's schema version; None if it has no Tidemill tables."""
    with database.read() as connection:
        return _version(connection)


def newest_version() -> str:
    """Return the schema version that this version of Tidemill needs."""
    head = _scripts().get_current_head()
    assert head is not None, "the package carries at least one migration"
    return head


def check_schema(database: Database) -> None:
    """Check that the database has the schema version that this version of Tidemill needs.

    Raises:
        SettingsError: The schema is missing, older or newer; the remedy says what to do.
    """
    found, needed = schema_version(database), newest_version()
    if found == needed:
        return
    where = database.engine.url.render_as_string(hide_password=True)
    if found is None:
        raise SettingsError(
            f"The database {where} has no Tidemill tables.", remedy="Run `tidemill migrate`."
        )
    if found in {script.revision for script in _scripts().walk_revisions()}:
        raise SettingsError(
            f"The database {where} has schema {found}; this version of Tidemill needs {needed}.",
            remedy="Take a backup, then run `tidemill migrate`.",
        )
    raise SettingsError(
        f"The database {where} has schema {found}, which this version of Tidemill does not know.",
        remedy="It was migrated by a newer version of Tidemill; install that version here too.",
    )


def _is_behind(found: str | None, target: str) -> bool:
    """Whether the database needs an upgrade; raises SettingsError for a newer database."""
    known = {script.revision for script in _scripts().walk_revisions()}
    if found is not None and found not in known:
        raise SettingsError(
            f"The database has schema {found}, which this version of Tidemill does not know.",
            remedy="It was migrated by a newer version of Tidemill; install that version here too.",
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

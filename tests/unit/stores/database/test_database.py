"""The database: both kinds behave the same, and another schema version is rejected."""

from __future__ import annotations

import threading
import time
import warnings
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import insert, select, text

from tidemill.errors import SettingsError, UnavailableError
from tidemill.stores.database.database import Database
from tidemill.stores.database.queries import json_safe, read_page
from tidemill.stores.database.schema import (
    VERSION_TABLE,
    check_schema,
    migrate,
    newest_version,
    schema_version,
)
from tidemill.stores.database.tables import metadata, monitor_results


def probe(number: int) -> dict[str, object]:
    return {"time": float(number), "target": "x", "probe": "health", "healthy": True}


def test_migrations_create_exactly_the_tables_in_the_code(database: Database) -> None:
    with database.read() as connection, warnings.catch_warnings():
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def test_migrating_twice_changes_nothing_and_downgrading_removes_all_tables(
    database: Database,
) -> None:
    assert migrate(database) == (newest_version(), newest_version())
    assert migrate(database, "base") == (newest_version(), None)
    with pytest.raises(SettingsError, match="has no Tidemill tables"):
        check_schema(database)
    migrate(database)
    check_schema(database)


def test_several_processes_can_migrate_at_once(database_url: str) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        own = Database(database_url)
        try:
            migrate(own)
        except BaseException as error:
            failures.append(error)
        finally:
            own.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_newer_schema_is_rejected_with_a_remedy(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    assert schema_version(database) == "9999"
    with pytest.raises(SettingsError, match="newer version of Tidemill"):
        check_schema(database)
    with pytest.raises(SettingsError, match="newer version of Tidemill"):
        migrate(database)


def test_an_unsupported_database_is_named() -> None:
    with pytest.raises(SettingsError, match="mysql"):
        Database("mysql://localhost/x")


def test_an_unreachable_database_raises_without_its_password() -> None:
    database = Database("postgresql://me:secret@127.0.0.1:1/x")
    with pytest.raises(UnavailableError) as refusal:
        database.now()
    assert "secret" not in str(refusal.value)
    database.close()


def test_an_error_rolls_back_a_writing_transaction(database: Database) -> None:
    def fail_half_way() -> None:
        with database.write() as connection:
            connection.execute(insert(monitor_results), probe(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert database.rows(select(monitor_results)) == []


def test_writers_wait_for_each_other_instead_of_failing(database: Database) -> None:
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for _ in range(20):
                with database.write() as connection:
                    seen = connection.execute(select(monitor_results.c.id)).all()
                    connection.execute(insert(monitor_results), probe(len(seen)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(database.rows(select(monitor_results))) == 100


def test_the_database_clock_is_in_seconds_since_the_epoch(database: Database) -> None:
    before = time.time()
    now = database.now()
    assert before - 5 < now < time.time() + 5


def test_consecutive_pages_have_no_gaps_and_no_duplicates(database: Database) -> None:
    with database.write() as connection:
        connection.execute(insert(monitor_results), [probe(n) for n in range(25)])
    seen, cursor = [], None
    while True:
        page = read_page(database, monitor_results, monitor_results.c.id, limit=10, cursor=cursor)
        seen += [row["time"] for row in page.items]
        cursor = page.next
        if cursor is None:
            break
    assert seen == [float(n) for n in reversed(range(25))]


def test_json_safe_makes_any_value_storable() -> None:
    value = {"a": float("nan"), "b": [float("inf"), 1, "x\0y"], 3: Path("/p"), "t": True}
    assert json_safe(value) == {"a": None, "b": [None, 1, "x\ufffdy"], "3": "/p", "t": True}

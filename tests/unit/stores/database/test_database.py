"""The database: both kinds behave the same, and another schema is refused."""

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
from tidemill.stores.database.pages import json_safe, read_page
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


def test_migrations_make_exactly_the_tables_that_the_code_describes(database: Database) -> None:
    with database.read() as connection, warnings.catch_warnings():
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def test_migrating_twice_changes_nothing_and_down_leaves_nothing(database: Database) -> None:
    assert migrate(database) == (newest_version(), newest_version())
    assert migrate(database, "base") == (newest_version(), None)
    with pytest.raises(SettingsError, match="holds no Tidemill tables"):
        check_schema(database)
    migrate(database)
    check_schema(database)


def test_several_processes_may_migrate_at_once(database_url: str) -> None:
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


def test_a_schema_from_the_future_is_refused_with_what_to_do(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    assert schema_version(database) == "9999"
    with pytest.raises(SettingsError, match="newer Tidemill"):
        check_schema(database)
    with pytest.raises(SettingsError, match="newer Tidemill"):
        migrate(database)


def test_an_unknown_database_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="mysql"):
        Database("mysql://localhost/x")


def test_a_database_that_is_away_is_unavailable_and_its_password_is_not_told() -> None:
    database = Database("postgresql://me:secret@127.0.0.1:1/x")
    with pytest.raises(UnavailableError) as refusal:
        database.now()
    assert "secret" not in str(refusal.value)
    database.close()


def test_an_error_in_a_writing_transaction_leaves_nothing_behind(database: Database) -> None:
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


def test_the_databases_clock_is_in_seconds_since_the_epoch(database: Database) -> None:
    before = time.time()
    now = database.now()
    assert before - 5 < now < time.time() + 5


def test_pages_follow_each_other_without_gap_or_repetition(database: Database) -> None:
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


def test_plain_makes_any_value_fit_for_every_database() -> None:
    value = {"a": float("nan"), "b": [float("inf"), 1, "x\0y"], 3: Path("/p"), "t": True}
    assert json_safe(value) == {"a": None, "b": [None, 1, "xy"], "3": "/p", "t": True}

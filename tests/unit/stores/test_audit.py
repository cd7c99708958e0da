"""The audit log: what was written is found again, what was tampered with is named."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, update

from tidemill.errors import SettingsError
from tidemill.stores.audit import AuditEntry, AuditLog, _hash
from tidemill.stores.database.database import Database
from tidemill.stores.database.tables import audit as table


@pytest.fixture
def log(database: Database, tmp_path: Path) -> AuditLog:
    return AuditLog(database, tmp_path / "home")


def fill(log: AuditLog, rows: int) -> None:
    for number in range(rows):
        log.append(AuditEntry("key:1", "promote", subject="iris", version=str(number)))


def tamper(database: Database, statement: Any) -> None:
    with database.write() as connection:
        connection.execute(statement)


def test_rows_are_numbered_kept_and_found_by_filter(log: AuditLog) -> None:
    evidence = {"p": 0.5, "big": 1e300, "small": 1e-9, "int": 10**18, "text": "é\u2028", "no": None}
    log.append(AuditEntry("key:1", "promote", "iris", "3", "10.0.0.1", "better", evidence))
    log.append(AuditEntry("key:2", "rollback", "wine", "1"))
    (row,) = log.page(subject="iris").items
    assert (row["seq"], row["actor"], row["reason"]) == (1, "key:1", "better")
    assert row["details"] == evidence
    assert [r["seq"] for r in log.page().items] == [2, 1]
    assert log.verify().intact


def test_an_empty_log_is_intact(log: AuditLog) -> None:
    assert log.verify().rows == 0
    assert log.verify().intact


@pytest.mark.parametrize(
    "change",
    [{"reason": "none"}, {"actor": "key:2"}, {"details": {"p": 0.4}}, {"time": 1.0}],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_row_is_named(log: AuditLog, database: Database, change: dict[str, Any]) -> None:
    fill(log, 5)
    tamper(database, update(table).where(table.c.seq == 3).values(**change))
    report = log.verify()
    assert (report.intact, report.row, report.problem) == (False, 3, "row 3 was changed")


@pytest.mark.parametrize("seq", [1, 3, 5])
def test_a_missing_row_is_named_even_at_the_start_or_the_end(
    log: AuditLog, database: Database, seq: int
) -> None:
    fill(log, 5)
    tamper(database, delete(table).where(table.c.seq == seq))
    report = log.verify()
    assert (report.intact, report.row, report.problem) == (False, seq, f"row {seq} is missing")


def test_deleting_the_whole_log_is_detected(log: AuditLog, database: Database) -> None:
    fill(log, 3)
    tamper(database, delete(table))
    assert log.verify().row == 1


def test_a_rewritten_chain_is_detected(log: AuditLog, database: Database) -> None:
    fill(log, 4)
    rows = database.rows(select(table).order_by(table.c.seq))
    previous = rows[0]["previous"]
    for row in rows:
        row |= {"previous": previous, "actor": "key:9"}
        row["hash"] = previous = _hash(previous, row)
        tamper(database, update(table).where(table.c.seq == row["seq"]).values(row))
    report = log.verify()
    assert not report.intact
    assert "rewritten" in str(report.problem)


def test_a_forged_checkpoint_is_detected(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 3)
    head = tmp_path / "home" / "audit.head"
    body = json.loads(head.read_text())
    head.write_text(json.dumps({**body, "seq": 2}))
    assert "signature" in str(log.verify().problem)
    head.write_text("{}")
    with pytest.raises(SettingsError, match="audit checkpoint"):
        log.verify()


def test_a_machine_without_a_checkpoint_says_what_it_cannot_check(
    log: AuditLog, database: Database, tmp_path: Path
) -> None:
    fill(log, 2)
    elsewhere = AuditLog(database, tmp_path / "other").verify()
    assert elsewhere.intact
    assert "no checkpoint" in str(elsewhere.note)


def test_machines_with_a_shared_secret_and_separate_folders_both_verify(
    database: Database, tmp_path: Path
) -> None:
    one = AuditLog(database, tmp_path / "one", "s3cret")
    two = AuditLog(database, tmp_path / "two", "s3cret")
    fill(one, 2)
    fill(two, 1)
    assert one.verify().intact
    assert two.verify().intact
    tamper(database, delete(table).where(table.c.seq == 3))
    assert two.verify().row == 3


def test_concurrent_writers_make_one_chain(
    log: AuditLog, database: Database, tmp_path: Path
) -> None:
    threads = [
        threading.Thread(target=fill, args=(AuditLog(database, tmp_path / "home"), 10))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = log.verify()
    assert (report.intact, report.rows) == (True, 40)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(details=st.dictionaries(st.text(), JSON, max_size=4), reason=st.text())
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_whatever_is_recorded_the_chain_holds(
    log: AuditLog, details: dict[str, Any], reason: str
) -> None:
    log.append(AuditEntry("key:1", "promote", reason=reason, details=details))
    assert log.verify().intact

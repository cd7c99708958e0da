"""The audit log: what was written is found again, what was tampered with is named."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, update

from tidemill.stores.audit import FIRST_HASH, AuditEntry, AuditLog, AuditReport, _hash
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
    body = json.loads(head.read_text().splitlines()[-1])
    head.write_text(json.dumps({**body, "seq": 2}))
    assert "signature" in str(log.verify().problem)
    head.write_text("{}")
    assert "signature" in str(log.verify().problem)
    fill(log, 2)  # is recorded all the same
    assert not log.verify().intact
    head.unlink()
    assert "missing" in str(log.verify().problem)


def test_a_machine_without_a_checkpoint_says_what_it_cannot_check(
    log: AuditLog, database: Database, tmp_path: Path
) -> None:
    fill(log, 2)
    elsewhere = AuditLog(database, tmp_path / "other").verify()
    assert elsewhere.intact
    assert "no signed head" in str(elsewhere.note)


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


def rewrite(database: Database, change: int, keep: int = 10**9) -> None:
    """Edit a row and compute all hashes anew, as someone with the database's password can."""
    tamper(database, delete(table).where(table.c.seq > keep))
    previous = FIRST_HASH
    for row in database.rows(select(table).order_by(table.c.seq)):
        row |= {"previous": previous} | ({"actor": "nobody"} if row["seq"] == change else {})
        row["hash"] = previous = _hash(previous, row)
        tamper(database, update(table).where(table.c.seq == row["seq"]).values(row))


@given(
    rows=st.integers(1, 8), change=st.integers(0, 8), keep=st.integers(0, 8), more=st.integers(1, 9)
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_break_stays_visible_however_many_rows_follow(
    database: Database,
    tmp_path_factory: pytest.TempPathFactory,
    rows: int, change: int, keep: int, more: int,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("home")
    tamper(database, delete(table))
    log = AuditLog(database, folder)
    fill(log, rows)
    rewrite(database, change, keep)
    touched = keep < rows or 1 <= change <= rows
    assert log.verify().intact is not touched
    fill(log, more)
    report = log.verify()
    assert report.intact is not touched
    assert report.rows == min(rows, keep) + more + touched
    if touched:
        assert "broken" in str(report.problem)
        assert not AuditLog(database, tmp_path_factory.mktemp("other")).verify().intact
        rewrite(database, 0, min(rows, keep))  # the record of the break is cut off as well
        assert not log.verify().intact
        fill(log, more)
        assert not log.verify().intact


def test_verification_during_appends_raises_no_false_alarm(
    log: AuditLog, database: Database, tmp_path: Path
) -> None:
    fill(log, 1)
    writer = threading.Thread(target=fill, args=(AuditLog(database, tmp_path / "home"), 60))
    writer.start()
    reports = []
    while writer.is_alive():
        reports.append(log.verify())
    writer.join()
    assert [report.problem for report in reports if not report.intact] == []


def test_a_checkpoint_of_an_older_version_is_the_first_head(
    log: AuditLog, database: Database, tmp_path: Path
) -> None:
    fill(log, 3)
    newest = database.rows(select(table).where(table.c.seq == 3))[0]
    secret = (tmp_path / "home" / "audit.secret").read_text()
    mac = hmac.new(secret.encode(), f"3:{newest['hash']}".encode(), hashlib.sha256).hexdigest()
    head = tmp_path / "home" / "audit.head"
    head.write_text(json.dumps({"seq": 3, "hash": newest["hash"], "mac": mac}))
    assert log.verify().intact
    fill(log, 2)
    assert log.verify() == AuditReport(True, 5)
    assert len(head.read_text().splitlines()) == 3


def test_a_line_cut_off_by_a_crash_is_no_break(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 3)
    head = tmp_path / "home" / "audit.head"
    head.write_text(head.read_text()[:-20])
    assert log.verify().intact
    fill(log, 1)
    assert log.verify().intact


def test_a_head_that_cannot_be_written_does_not_stop_the_log(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 2)
    head = tmp_path / "home" / "audit.head"
    head.rename(head.with_suffix(".kept"))
    head.mkdir()
    assert log.append(AuditEntry("key:1", "promote")) == 3
    head.rmdir()
    head.with_suffix(".kept").rename(head)
    fill(log, 1)
    assert log.verify() == AuditReport(True, 4)


def test_the_anchor_detects_heads_cut_off_at_home(database: Database, tmp_path: Path) -> None:
    anchor = tmp_path / "elsewhere" / "heads"
    log = AuditLog(database, tmp_path / "home", "s3cret", anchor)
    fill(log, 5)
    assert log.verify() == AuditReport(True, 5)
    head = tmp_path / "home" / "audit.head"
    head.write_text("".join(head.read_text().splitlines(keepends=True)[:3]))
    assert "lacks signed heads" in str(log.verify().problem)
    tamper(database, delete(table).where(table.c.seq > 3))
    assert AuditLog(database, tmp_path / "home", "s3cret").verify().intact
    assert log.verify().row == 4
    fill(log, 4)
    assert not log.verify().intact


def test_a_restored_older_log_is_intact_with_its_anchor(database: Database, tmp_path: Path) -> None:
    anchor, home = tmp_path / "elsewhere" / "heads", tmp_path / "home"
    log = AuditLog(database, home, "s3cret", anchor)
    fill(log, 3)
    kept = (home / "audit.head").read_text()
    fill(log, 2)
    tamper(database, delete(table).where(table.c.seq > 3))
    (home / "audit.head").write_text(kept)
    log.append(AuditEntry("ops", "restore"), restored=True)
    fill(log, 3)
    assert log.verify() == AuditReport(True, 7)


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

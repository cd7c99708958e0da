"""Ingest: every record of the journal is stored exactly once, whatever is in the way."""

from __future__ import annotations

import json
import threading
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import select, text, update

from tests.unit.stores.predictions.test_predictions import PLANTS, record
from tidemill.errors import UnavailableError
from tidemill.loop.ingest.drain import Ingest
from tidemill.loop.ingest.retention import Retention
from tidemill.loop.ingest.signatures import SignatureLookup, shelf_finder
from tidemill.loop.ingest.state import IngestMetrics, IngestState, read_state, write_state
from tidemill.serving.journal.frames import HEADER, OLD_HEADER
from tidemill.serving.journal.journal import Journal
from tidemill.serving.journal.record_types import JournalRecord, JournalRun
from tidemill.serving.journal.segments import damaged_segments, read_segment, segments
from tidemill.serving.shelf.shelf import folder_name
from tidemill.stores.database.database import Database
from tidemill.stores.database.tables import feedback, journal_offsets, predictions
from tidemill.stores.predictions.feedback import Feedback, NewLabel
from tidemill.stores.predictions.offsets import advance_offset, delete_stale_offsets, read_offsets
from tidemill.stores.predictions.predictions import Predictions

KNOWN = SignatureLookup(lambda model, version: PLANTS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def write(journal: Journal, *records: JournalRecord) -> None:
    for each in records:
        journal.add(JournalRun.of(each))
    assert journal.commit()


def closed(folder: Path, *records: JournalRecord) -> Path:
    """Write a segment and close it."""
    journal = Journal(folder)
    before = {s.path for s in segments(folder)}
    write(journal, *records)
    journal.close()
    (path,) = {s.path for s in segments(folder)} - before
    return path


def stored(database: Database) -> list[str]:
    with database.read() as connection:
        return sorted(connection.execute(select(predictions.c.id)).scalars())


def ids(*numbers: int) -> list[str]:
    return [f"p{number:05d}" for number in numbers]


def test_journal_records_are_stored_and_closed_segments_deleted(
    database: Database, folder: Path
) -> None:
    closed(folder, record(1), record(2))
    journal = Journal(folder)
    write(journal, record(3))
    ingest = Ingest(database, folder, KNOWN)
    assert ingest.drain() == 3
    assert stored(database) == ids(1, 2, 3)
    assert [s.closed for s in segments(folder)] == [False]
    write(journal, record(4, role="canary", version="2"))
    assert ingest.backlog() > 0
    assert (ingest.drain(), ingest.drain()) == (1, 0)
    journal.close()
    assert ingest.drain() == 0
    assert segments(folder) == []
    assert Predictions(database).signatures("plants") == {"1": PLANTS, "2": PLANTS}


def test_a_busy_writer_does_not_delay_other_segments(
    database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, number = Journal(folder), iter(range(100, 150))
    write(busy, record(next(number)))
    closed(folder, record(1))

    def read(path: Path, offset: int, **how: Any) -> Any:
        page = read_segment(path, offset, **how)
        write(busy, record(next(number)))
        return page

    monkeypatch.setattr("tidemill.loop.ingest.drain.read_segment", read)
    Ingest(database, folder, KNOWN).drain()
    assert "p00001" in stored(database)


def test_it_stops_between_two_pages(database: Database, folder: Path) -> None:
    journal = Journal(folder)
    for number in range(20):
        write(journal, record(number))
    journal.close()
    stop = threading.Event()
    ingest = Ingest(database, folder, KNOWN, page_bytes=300)
    assert 0 < ingest.drain(lambda size: stop.set(), stop) < 20
    assert ingest.state().lag_seconds > 0
    ingest.drain()
    assert len(stored(database)) == 20
    assert ingest.state().lag_seconds == 0


def test_a_signature_found_later_is_stored(
    database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemill.loop.ingest.signatures.RETRY_SECONDS", -1.0)
    known: dict[str, Any] = {}
    ingest = Ingest(database, folder, SignatureLookup(lambda model, version: known.get(model)))
    journal = Journal(folder)
    for held in ({}, {"plants": PLANTS}, {}):
        known.update(held)
        write(journal, record(len(stored(database))))
        ingest.drain()
    assert Predictions(database).signatures("plants") == {"1": PLANTS}


def test_table_statistics_are_updated_after_many_new_rows(database: Database, folder: Path) -> None:
    def known() -> float:
        query = "SELECT reltuples FROM pg_class WHERE oid = 'predictions'::regclass"
        if database.dialect != "postgresql":
            return float("nan")
        with database.read() as connection:
            return float(connection.execute(text(query)).scalar_one())

    ingest = Ingest(database, folder, KNOWN, statistics_rows=20)
    counted = []
    for start, rows in ((0, 19), (100, 1), (200, 19), (300, 1)):
        closed(folder, *(record(start + number) for number in range(rows)))
        ingest.drain()
        counted.append(known())
    if database.dialect == "postgresql":
        assert counted == [-1, 20, 20, 40]


def test_a_missing_folder_is_empty(database: Database, folder: Path) -> None:
    assert Ingest(database, folder, KNOWN).drain() == 0


def test_small_pages_give_the_same_result(database: Database, folder: Path) -> None:
    journal = Journal(folder)
    for number in range(50):
        write(journal, record(number))
    journal.close()
    assert Ingest(database, folder, KNOWN, page_bytes=300).drain() == 50
    assert segments(folder) == []


def test_a_segment_that_reappears_is_not_stored_again(database: Database, folder: Path) -> None:
    path = closed(folder, record(1))
    copy = path.read_bytes()
    ingest = Ingest(database, folder, KNOWN)
    ingest.drain()
    path.write_bytes(copy)
    assert (ingest.drain(), ingest.counts.duplicates) == (0, 0)
    assert not path.exists()


def test_an_id_stored_before_is_counted_and_not_changed(database: Database, folder: Path) -> None:
    Predictions(database).add([record(1)])
    closed(folder, record(1, predictions=["fern"]), record(2))
    ingest = Ingest(database, folder, KNOWN)
    assert ingest.drain() == 1
    assert ingest.counts.duplicates == 1
    assert Predictions(database).window("plants").outputs.tolist() == ["moss", "fern"]


def test_a_crash_before_the_commit_stores_nothing(
    database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed(folder, record(1))
    ingest = Ingest(database, folder, KNOWN)
    with monkeypatch.context() as patch:
        patch.setattr("tidemill.loop.ingest.page_writer.join_waiting", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ingest.drain()
    assert stored(database) == []
    assert ingest.counts.rows == 0
    assert ingest.drain() == 1


def test_a_crash_before_the_segment_is_deleted_stores_nothing_twice(
    database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed(folder, record(1))
    with monkeypatch.context() as patch:
        patch.setattr("tidemill.loop.ingest.drain.discard", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Ingest(database, folder, KNOWN).drain()
    ingest = Ingest(database, folder, KNOWN)
    assert ingest.drain() == ingest.counts.duplicates == 0
    assert stored(database) == ids(1)
    assert segments(folder) == []


def test_two_processes_store_everything_once(database: Database, folder: Path) -> None:
    for start in range(0, 400, 40):
        closed(folder, *(record(number) for number in range(start, start + 40)))
    workers = [Ingest(database, folder, KNOWN, page_bytes=1_000) for _ in range(3)]
    threads = [threading.Thread(target=worker.drain) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    workers[0].drain()
    assert stored(database) == ids(*range(400))
    assert sum(worker.counts.rows for worker in workers) == 400
    assert sum(worker.counts.duplicates for worker in workers) == 0


def test_an_offset_moves_only_from_its_current_value(database: Database) -> None:
    with database.write() as connection:
        assert advance_offset(connection, "a", 0, 10)
        assert not advance_offset(connection, "a", 0, 10)
        assert advance_offset(connection, "a", 10, 20)
        assert not advance_offset(connection, "a", 10, 20)
    assert read_offsets(database, ["a", "b"]) == {"a": 20}


def test_old_offsets_are_deleted_unless_their_segment_exists(database: Database) -> None:
    with database.write() as connection:
        for name in ("here", "gone", "new"):
            advance_offset(connection, name, 0, 10)
        connection.execute(
            update(journal_offsets).where(journal_offsets.c.segment != "new").values(updated=0)
        )
    delete_stale_offsets(database, {"here"})
    assert set(read_offsets(database, ["here", "gone", "new"])) == {"here", "new"}


def test_a_damaged_frame_loses_only_itself(
    database: Database, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(folder)
    for number in range(3):
        write(journal, record(number))
    journal.close()
    (segment,) = segments(folder)
    data = bytearray(segment.path.read_bytes())
    frame = (len(data) - HEADER.size) // 3
    data[HEADER.size + frame + 40] ^= 0xFF
    damaged = bytes(data[:-5])
    segment.path.write_bytes(damaged)
    ingest = Ingest(database, folder, KNOWN)
    assert ingest.drain() == 1
    assert stored(database) == ids(0)
    assert ingest.counts.damaged_bytes == 2 * frame - 5
    assert segments(folder) == []
    (kept,) = damaged_segments(folder)
    assert (kept.name, kept.read_bytes()) == (segment.path.name, damaged)
    assert kept.name in caplog.text
    assert ingest.state().damaged_files == 1


def test_damage_found_before_a_crash_is_remembered(database: Database, folder: Path) -> None:
    journal = Journal(folder)
    for number in range(6):
        write(journal, record(number))
    journal.close()
    ((path, *_),) = segments(folder)
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    steps = iter(range(6))

    def one_page(size: int) -> None:
        if next(steps) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Ingest(database, folder, KNOWN, page_bytes=1).drain(one_page)
    assert path.exists()
    Ingest(database, folder, KNOWN).drain()
    assert stored(database) == ids(*range(6))
    assert [kept.read_bytes() for kept in damaged_segments(folder)] == [data]


@pytest.mark.parametrize("content", [b"", b"TMJ", b"something else entirely", bytes(5000)])
def test_a_file_that_is_no_segment_is_kept(
    content: bytes, database: Database, folder: Path
) -> None:
    folder.mkdir()
    (folder / "1700000000000000-x.journal").write_bytes(content)
    assert Ingest(database, folder, KNOWN).drain() == 0
    assert segments(folder) == []
    assert [kept.read_bytes() for kept in damaged_segments(folder)] == [content]


def test_a_segment_that_cannot_be_kept_is_not_deleted(database: Database, folder: Path) -> None:
    path = closed(folder, record(1))
    path.write_bytes(b"x" + path.read_bytes())
    (folder / "damaged").write_text("in the way")
    ingest = Ingest(database, folder, KNOWN)
    ingest.drain()
    assert path.exists()
    assert path.name in str(ingest.state().problem)
    (folder / "damaged").unlink()
    ingest.drain()
    assert (stored(database), path.exists()) == (ids(1), False)


def test_an_incomplete_frame_is_read_later(database: Database, folder: Path) -> None:
    journal = Journal(folder)
    write(journal, record(1), record(2))
    (segment,) = segments(folder)
    with segment.path.open("rb") as file:
        whole = file.read()
    with segment.path.open("r+b") as file:
        file.truncate(len(whole) - 7)
    ingest = Ingest(database, folder, KNOWN)
    assert ingest.drain() == ingest.counts.damaged_bytes == 0
    segment.path.write_bytes(whole)
    assert ingest.drain() == 2


def test_an_unreadable_file_is_named_and_delays_no_other(
    database: Database, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = closed(folder, record(1))
    (folder / f"0-{first.name}").mkdir()  # sorts before all others and cannot be opened
    newer, start = folder / f"1-{first.name}", (b"TMJRNL9\n", 7)
    newer.write_bytes(HEADER.pack(*start, zlib.crc32(OLD_HEADER.pack(*start))) + b"to come")
    ingest = Ingest(database, folder, KNOWN)
    assert ingest.drain() == 1
    closed(folder, record(2))
    assert ingest.drain() == 1
    assert stored(database) == ids(1, 2)
    assert ingest.counts.unreadable == 2  # each counted and logged once, though found twice
    assert caplog.text.count("cannot be read and is skipped") == 2
    problem = ingest.state().problem
    assert problem is not None
    assert f"0-{first.name}" in problem
    assert newer.exists()  # what a newer version can read is kept
    newer.unlink()
    (folder / f"0-{first.name}").rmdir()
    ingest.drain()
    assert ingest.state().problem is None


@pytest.mark.parametrize(
    "nonsense", [{"rows": 3}, {"id": "\0"}, {"features": b"\0"}, {"model": "m" * 300}]
)
def test_inconsistent_records_are_kept_aside_and_others_stored(
    nonsense: dict[str, Any], database: Database, folder: Path
) -> None:
    closed(folder, record(1), record(2, **nonsense), record(3))
    ingest = Ingest(database, folder, KNOWN)
    assert ingest.drain() == 2
    assert stored(database) == ids(1, 3)
    assert ingest.counts.rejected == 1
    (line,) = (folder / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["why"]
    assert msgspec.convert(json.loads(line)["what"], list)[2] == record(2, **nonsense).model


def test_a_row_refused_by_the_database_delays_no_other(database: Database, folder: Path) -> None:
    trigger = {
        "sqlite": "CREATE TRIGGER no BEFORE INSERT ON predictions WHEN NEW.id = 'p00003' "
        "BEGIN SELECT RAISE(ABORT, 'not this one'); END",
        "postgresql": "ALTER TABLE predictions ADD CHECK (id <> 'p00003')",
    }[database.dialect]
    with database.write() as connection:
        connection.execute(text(trigger))
    closed(folder, *(record(number) for number in range(10)))
    ingest = Ingest(database, folder, KNOWN)
    assert ingest.drain() == 9
    assert "refuses it" in (folder / "rejected.jsonl").read_text()
    assert ingest.counts.rejected == 1
    assert len(stored(database)) == 9


def test_waiting_labels_are_joined(database: Database, folder: Path) -> None:
    store = Feedback(database)
    store.add([NewLabel("p00001", "moss"), NewLabel("p00009", "moss")])
    closed(folder, record(1))
    Ingest(database, folder, KNOWN).drain()
    assert store.counts() == {"joined": 1, "waiting": 1}


def test_a_signature_is_found_on_the_shelf_even_later(
    database: Database, folder: Path, tmp_path: Path
) -> None:
    shelf = tmp_path / "shelf"
    closed(folder, record(1))
    Ingest(database, folder, SignatureLookup(shelf_finder(shelf))).drain()
    assert Predictions(database).window("plants").frame is None
    bundle = shelf / folder_name("plants", "1", "0123456789abcdef")
    bundle.mkdir(parents=True)
    (bundle / "signature.json").write_bytes(msgspec.json.encode(PLANTS))
    closed(folder, record(2))
    Ingest(database, folder, SignatureLookup(shelf_finder(shelf))).drain()
    frame = Predictions(database).window("plants").frame
    assert frame is not None
    assert frame["height"].tolist() == [1.0, 2.0]
    assert shelf_finder(shelf)("plants", "11") is None


def test_retention_by_age_and_by_rows_deletes_labels_too(database: Database, folder: Path) -> None:
    now = database.now()
    store, reader = Feedback(database), Predictions(database)
    reader.add([record(n, time=now - 100 + n) for n in range(10)])
    reader.add([record(n, model="old", time=now - 10 * 86400 + n) for n in range(10, 14)])
    store.add([NewLabel("p00000", "moss"), NewLabel("p00009", "moss"), NewLabel("p00011", "fern")])
    keep = Retention(database, days=9, rows=7)
    assert keep.apply() == 3 + 4
    assert stored(database) == ids(*range(3, 10))
    with database.read() as connection:
        assert connection.execute(select(feedback.c.prediction_id)).scalars().all() == ids(9)
    assert keep.apply() == 0
    assert Retention(database).apply() == 0


def test_retention_archives_whole_days_before_it_deletes_them(database: Database) -> None:
    day = 86400.0
    reader = Predictions(database)
    reader.add([record(n, time=n * day / 2) for n in range(5)])
    seen = []

    def export(model: str, before: float) -> None:
        seen.append((model, before, reader.count(model)))

    assert Retention(database, rows=1, archive=export).apply() == 4
    assert seen == [("plants", 2 * day, 5)]
    assert stored(database) == ids(4)


def test_retention_deletes_nothing_that_could_not_be_archived(database: Database) -> None:
    Predictions(database).add([record(n) for n in range(4)])

    def fail(model: str, before: float) -> None:
        raise UnavailableError("The bucket is away.")

    with pytest.raises(UnavailableError):
        Retention(database, days=1, archive=fail).apply()
    assert len(stored(database)) == 4


def test_the_state_is_exposed_as_metrics(home: Path) -> None:
    registry = CollectorRegistry()
    home.mkdir()
    registry.register(IngestMetrics(lambda: read_state(home)))
    assert generate_latest(registry) == b""
    write_state(home, IngestState(updated=0.0, rows=7, rejected=1, lag_seconds=2.0))
    told = generate_latest(registry).decode()
    assert "tidemill_ingest_rows_total 7.0" in told
    assert "tidemill_ingest_rejected_total 1.0" in told
    assert "tidemill_ingest_up 0.0" in told, "it has not been heard of since 1970"

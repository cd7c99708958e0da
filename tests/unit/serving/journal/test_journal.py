"""The journal: committed records are read back, torn ones are not."""

from __future__ import annotations

import fcntl
import os
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.journal_records import read_folder, read_whole
from tidemill.errors import SettingsError
from tidemill.serving.journal import journal as writing
from tidemill.serving.journal.frames import FRAME, HEADER, MARKER, OLD_FRAME, OLD_HEADER
from tidemill.serving.journal.journal import Journal
from tidemill.serving.journal.policy import JournalOptions, RecordingRule
from tidemill.serving.journal.prediction_ids import id_source
from tidemill.serving.journal.record_types import JournalRecord, JournalRun
from tidemill.serving.journal.segments import (
    damaged_segments,
    discard,
    read_segment,
    segments,
    set_aside,
)

ROW = np.array([[1.5, -2.0, 3.25]], dtype="<f4")


def entry(id: str = "p1", **changes: Any) -> dict[str, Any]:
    """The arguments of one `append`."""
    return {
        "id": id,
        "time": 1_700_000_000.25,
        "model": "iris-classifier",
        "version": "3",
        "features": ROW.tobytes(),
        "encoding": "f4",
        "predictions": ["setosa"],
        "probabilities": np.array([[0.75, 0.25]], "<f4").tobytes(),
        "latency": 0.0001,
        "request_id": "r-1",
        "key_id": "k1",
        **changes,
    }


def write(journal: Journal, ids: Sequence[str], **changes: Any) -> None:
    """Commit one record for each id, each in its own commit."""
    for id in ids:
        journal.append(**entry(id, **changes))
        assert journal.commit()


def only_segment(folder: Path) -> Path:
    (path,) = [s.path for s in segments(folder)]
    return path


def ids_in(folder: Path) -> list[str]:
    return [record.id for record in read_folder(folder)]


def test_a_committed_record_comes_back_with_every_field(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(**entry("p1", role="shadow"))
    assert journal.commit()
    (record,) = read_folder(tmp_path)
    assert record == JournalRecord(
        id="p1",
        time=1_700_000_000.25,
        model="iris-classifier",
        version="3",
        rows=1,
        encoding="f4",
        features=ROW.tobytes(),
        predictions=["setosa"],
        probabilities=np.array([[0.75, 0.25]], "<f4").tobytes(),
        latency=0.0001,
        request_id="r-1",
        key_id="k1",
        role="shadow",
        sample=1.0,
    )
    assert record.inputs() == [[1.5, -2.0, 3.25]]
    assert record.probability_rows() == [[0.75, 0.25]]
    assert record.row_ids() == ["p1"]


def test_a_batch_is_one_record_with_an_id_for_each_row(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    matrix = np.arange(6, dtype="<f8").reshape(3, 2)
    journal.append(
        **entry(
            "b",
            features=matrix.tobytes(),
            encoding="f8",
            predictions=[1.0, 2.0, 3.0],
            probabilities=None,
        )
    )
    journal.commit()
    (record,) = read_folder(tmp_path)
    assert record.row_ids() == ["b-0", "b-1", "b-2"]
    assert record.inputs() == matrix.tolist()
    assert record.probability_rows() is None


VALUES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text()


@given(
    rows=st.lists(st.lists(VALUES, min_size=2, max_size=2), min_size=1, max_size=4),
    labels=st.lists(st.text() | st.integers(0, 9) | st.booleans(), min_size=1, max_size=4),
    model=st.text(max_size=300),
    turns=st.lists(st.integers(0, 4), max_size=4),
)
def test_any_values_survive_the_round_trip(
    rows: list[list[Any]], labels: list[Any], model: str, turns: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        changes = {"features": rows, "encoding": "values", "predictions": labels, "model": model}
        for turn, count in enumerate(turns):
            for number in range(count):
                journal.append(**entry(f"{turn}.{number}", **changes))
            journal.commit()
        found = list(read_folder(Path(folder)))
    assert [r.id for r in found] == [f"{t}.{n}" for t, c in enumerate(turns) for n in range(c)]
    for record in found:
        np.testing.assert_equal(record.inputs(), rows)
        assert (record.predictions, record.model) == (labels, model)


def test_nothing_is_on_disk_before_the_commit_and_all_of_it_after(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for id in "abc":
        journal.append(**entry(id))
    assert ids_in(tmp_path) == []
    assert journal.commit()
    assert ids_in(tmp_path) == ["a", "b", "c"]
    assert journal.state().records == 3
    assert journal.state().bytes == only_segment(tmp_path).stat().st_size - HEADER.size


def test_a_truncated_segment_yields_the_complete_records_before_the_cut(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    write(journal, ["a", "b", "c"])
    journal.close()
    path = only_segment(tmp_path)
    data = path.read_bytes()
    frame = (len(data) - HEADER.size) // 3
    for cut in range(HEADER.size, len(data)):
        path.write_bytes(data[:cut])
        page = read_whole(path)
        whole, torn = divmod(cut - HEADER.size, frame)
        assert [r.id for r in page.records] == ["a", "b", "c"][:whole], f"cut at {cut}"
        assert (page.finished, page.next_offset) == (True, cut)
        assert (page.torn, page.damaged) == (torn, 0), f"cut at {cut}"


def test_a_segment_cut_within_its_header_is_damaged(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    write(journal, ["a"])
    journal.close()
    path = only_segment(tmp_path)
    data = path.read_bytes()
    for cut in range(1, HEADER.size):
        path.write_bytes(data[:cut])
        assert read_whole(path) == ([], cut, True, cut, 0)


IDS = [f"p{n}" for n in range(8)]


def damaged_copy(path: Path, kind: str, position: int, amount: int, junk: bytes) -> tuple[int, int]:
    """Damage a segment; give the range of its former bytes that are changed or gone."""
    data = path.read_bytes()
    position %= len(data) + (kind == "insert")
    if kind == "flip":
        path.write_bytes(
            data[:position] + bytes([data[position] ^ (1 << amount % 8)]) + data[position + 1 :]
        )
        return position, position + 1
    if kind == "insert":
        path.write_bytes(data[:position] + junk + data[position:])
        return position, position
    end = len(data) if kind == "truncate" else min(len(data), position + amount)
    fill = junk[: end - position].ljust(end - position, b"\0") if kind == "overwrite" else b""
    path.write_bytes(data[:position] + fill + data[end:])
    return position, end


@settings(max_examples=400)
@given(
    kind=st.sampled_from(["flip", "insert", "truncate", "overwrite", "delete"]),
    position=st.integers(0, 20_000) | st.integers(0, 40),
    amount=st.integers(1, 600),
    junk=st.binary(min_size=1, max_size=600)
    | st.sampled_from([MARKER * 40, (MARKER + b"\x40\0\0\0\xbf\xff\xff\xff") * 9, b"\0" * 99]),
    limit=st.sampled_from([1, 300, 4 << 20]),
)
def test_damage_costs_only_the_records_that_it_touches(
    kind: str, position: int, amount: int, junk: bytes, limit: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        ends = []
        for id in IDS:
            write(journal, [id], features=MARKER * 20, model="m" * (3 * len(ends)))
            ends.append(only_segment(Path(folder)).stat().st_size)
        journal.close()
        path = only_segment(Path(folder))
        begins = [HEADER.size, *ends[:-1]]
        before = path.read_bytes()
        first, _ = damaged_copy(path, kind, position, amount, junk)
        after = path.read_bytes()  # the damage may leave the bytes of a record as they were
        untouched = [
            id
            for id, begin, end in zip(IDS, begins, ends, strict=True)
            if before[begin:end] in after
        ]
        page = read_whole(path, limit=limit)
        assert [r.id for r in page.records] == untouched
        assert page.finished
        assert page.next_offset == path.stat().st_size
        if kind in ("flip", "insert") and first >= HEADER.size:
            assert page.damaged, "what was changed is counted, so that the file is kept"
            assert not page.torn


@pytest.mark.parametrize("bit", range(8 * HEADER.size))
def test_a_flipped_bit_in_the_header_costs_no_record(bit: int, tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    write(journal, ["a", "b"])
    journal.close()
    path = only_segment(tmp_path)
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    page = read_whole(path)
    assert [r.id for r in page.records] == ["a", "b"]
    assert page.damaged == HEADER.size


def test_many_damaged_places_are_read_page_by_page(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    wanted = [f"p{n}" for n in range(400)]
    write(journal, wanted)
    journal.close()
    path = only_segment(tmp_path)
    data = path.read_bytes()
    found = data.split(MARKER)
    path.write_bytes(b"junk" + (b"junk" + MARKER).join(found))
    page = read_whole(path, limit=2000)
    assert [r.id for r in page.records] == wanted
    assert page.damaged == HEADER.size + 4 + 400 * 4


def candidates(count: int, total: int) -> bytes:
    """What looks like the starts of frames that all reach to the end of the data."""
    sizes = [total - FRAME.size * (n + 1) for n in range(count)]
    return b"".join(FRAME.pack(MARKER, size, size ^ 0xFFFFFFFF, 7) for size in sizes)


def test_a_segment_full_of_false_starts_is_searched_in_linear_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    write(journal, ["a"])
    journal.close()
    path = only_segment(tmp_path)
    count = 4000
    path.write_bytes(path.read_bytes() + candidates(count, FRAME.size * count))
    summed, real = [0], zlib.adler32

    def counting(data: Any, start: int = 1) -> int:
        summed[0] += len(data)
        return real(data, start)

    monkeypatch.setattr(zlib, "adler32", counting)
    page = read_whole(path)
    assert [r.id for r in page.records] == ["a"]
    assert page.damaged == FRAME.size * count
    assert summed[0] < 4 * path.stat().st_size


def test_a_segment_that_was_set_aside_stays_after_it_is_discarded(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    write(journal, ["a"])
    journal.close()
    path = only_segment(tmp_path)
    data = path.read_bytes()
    assert set_aside(path) == set_aside(path)
    discard(path)
    (kept,) = damaged_segments(tmp_path)
    assert (kept.name, kept.read_bytes()) == (path.name, data)
    assert segments(tmp_path) == []


@given(limit=st.integers(1, 1000), count=st.integers(1, 12))
def test_pages_of_any_size_yield_every_record_once(limit: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        wanted = [f"p{n}" for n in range(count)]
        for n, id in enumerate(wanted):
            write(journal, [id], model="m" * (40 * n))
        journal.close()
        found, offset, finished = [], 0, False
        while not finished:
            page = read_segment(only_segment(Path(folder)), offset, limit=limit)
            assert page.next_offset > offset
            found += [r.id for r in page.records]
            offset, finished = page.next_offset, page.finished
        assert found == wanted
        again = read_segment(only_segment(Path(folder)), offset)
        assert (again.records, again.finished, again.damaged) == ([], True, 0)


def test_an_unfinished_frame_in_an_open_segment_waits_for_the_next_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    write(journal, ["a"])
    path = only_segment(tmp_path)
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(MARKER + b"\x10")
    page = read_segment(path)
    assert [r.id for r in page.records] == ["a"]
    assert (page.next_offset, page.finished, page.damaged) == (whole, False, 0)
    journal.close()
    page = read_segment(path, page.next_offset)
    assert page == ([], whole + 5, True, 0, 5)


def test_a_frame_hidden_in_a_clients_string_is_not_read_as_a_record(tmp_path: Path) -> None:
    attacker = Journal(tmp_path / "own")
    write(attacker, ["forged"])
    frame = only_segment(tmp_path / "own").read_bytes()[HEADER.size :]
    journal = Journal(tmp_path / "real")
    write(journal, ["a"], features=frame, encoding="f4")
    write(journal, ["b"])
    journal.close()
    path = only_segment(tmp_path / "real")
    data = bytearray(path.read_bytes())
    data[HEADER.size] ^= 1  # the outer frame's marker, so that the reader looks for the next frame
    path.write_bytes(data)
    assert [r.id for r in read_whole(path).records] == ["b"]


def test_a_segment_is_closed_exactly_when_no_process_writes_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    write(journal, ["a"])
    assert [s.closed for s in segments(tmp_path)] == [False]
    journal.close()
    assert [s.closed for s in segments(tmp_path)] == [True]
    write(journal, ["b"])
    assert [s.closed for s in segments(tmp_path)] == [True, False]


def test_a_new_writer_never_appends_to_an_old_segment(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    write(first, ["a"])
    first.close()
    old = only_segment(tmp_path)
    with old.open("ab") as file:
        file.write(b"torn")
    before = old.read_bytes()
    second = Journal(tmp_path)
    write(second, ["b"])
    assert old.read_bytes() == before
    assert ids_in(tmp_path) == ["a", "b"]


def test_several_writers_share_a_folder(tmp_path: Path) -> None:
    journals = [Journal(tmp_path, writer=f"w{n}") for n in range(3)]
    for turn in range(5):
        for n, journal in enumerate(journals):
            write(journal, [f"{n}.{turn}"])
    assert sorted(ids_in(tmp_path)) == sorted(f"{n}.{t}" for n in range(3) for t in range(5))
    assert len(segments(tmp_path)) == 3


def test_segments_rotate_by_size_and_names_sort_by_creation(tmp_path: Path) -> None:
    journal = Journal(tmp_path, JournalOptions(segment_bytes=500))
    wanted = [f"p{n:02}" for n in range(20)]
    write(journal, wanted)
    found = segments(tmp_path)
    assert len(found) >= 4
    assert all(s.closed for s in found[:-1])
    assert max(s.size for s in found) < 1000
    assert ids_in(tmp_path) == wanted


def test_segments_rotate_by_age_even_without_traffic(tmp_path: Path) -> None:
    journal = Journal(tmp_path, JournalOptions(segment_seconds=0.0))
    write(journal, ["a"])
    journal.tick()
    assert [s.closed for s in segments(tmp_path)] == [True]


def test_a_process_without_predictions_leaves_no_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.commit()
    journal.tick()
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_folder_drops_and_counts_until_ingest_makes_room(tmp_path: Path) -> None:
    journal = Journal(tmp_path, JournalOptions(max_bytes=600, when_full="drop"))
    for n in range(10):
        journal.append(**entry(f"p{n}"))
        assert journal.commit()
    state = journal.state()
    assert state.full
    assert state.dropped == 10 - state.records > 0
    assert not journal.refusing
    assert len(ids_in(tmp_path)) == state.records
    assert all(s.closed for s in segments(tmp_path)), "ingest takes only closed segments"
    for segment in segments(tmp_path):
        assert read_segment(segment.path).finished
        discard(segment.path)
    journal.tick()
    write(journal, ["after"])
    assert ids_in(tmp_path) == ["after"]
    assert not journal.state().full


def test_a_full_folder_refuses_until_ingest_makes_room(tmp_path: Path) -> None:
    journal = Journal(tmp_path, JournalOptions(max_bytes=200, when_full="refuse"))
    write(journal, ["a", "b"])
    assert journal.refusing
    journal.append(**entry("c"))
    assert not journal.commit()
    assert journal.state().refused == 1
    assert ids_in(tmp_path) == ["a", "b"]
    for segment in segments(tmp_path):
        discard(segment.path)
    journal.tick()
    assert not journal.refusing
    write(journal, ["d"])
    assert ids_in(tmp_path) == ["d"]


def test_other_processes_bytes_count_towards_the_limit(tmp_path: Path) -> None:
    journal = Journal(tmp_path, JournalOptions(max_bytes=10_000, when_full="refuse"))
    other = Journal(tmp_path)
    write(other, [f"p{n}" for n in range(100)])
    journal.tick()
    assert journal.refusing
    assert journal.state().folder_bytes == only_segment(tmp_path).stat().st_size


@pytest.mark.parametrize("policy", ["drop", "refuse"])
def test_a_partial_write_loses_no_record_before_or_after_it(
    policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, JournalOptions(when_full=policy))
    write(journal, ["a"])
    real, room = os.write, [30]

    def full_disk(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        count, room[0] = real(descriptor, data[: room[0]]), 0
        return count

    monkeypatch.setattr(writing.os, "write", full_disk)
    journal.append(**entry("lost"))
    assert journal.commit() is (policy == "drop")
    state = journal.state()
    assert (state.dropped, state.refused) == ((1, 0) if policy == "drop" else (0, 1))
    assert "No space left" in str(state.last_error)
    assert journal.refusing is (policy == "refuse")
    monkeypatch.setattr(writing.os, "write", real)
    journal.tick()
    assert not journal.refusing
    write(journal, ["b"])
    assert journal.state().last_error is None
    assert ids_in(tmp_path) == ["a", "b"]


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(writing.os, "write", lambda fd, data: real(fd, data[:7]))
    write(Journal(tmp_path), ["a", "b"])
    assert ids_in(tmp_path) == ["a", "b"]


def test_after_a_write_error_nothing_is_written_until_the_next_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    tries: list[int] = []

    def broken(descriptor: int, data: bytes) -> int:
        tries.append(descriptor)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(writing.os, "write", broken)
    for n in range(50):
        journal.append(**entry(f"p{n}"))
        journal.commit()
    assert len(tries) <= 2
    assert journal.state().dropped == 50


@pytest.mark.parametrize("value", ["\ud800", 2**70, object()])
def test_a_record_that_cannot_be_encoded_does_not_lose_others(value: Any, tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(**entry("a"))
    journal.append(**entry("bad", features=[[value]], encoding="values"))
    journal.append(**entry("b"))
    assert journal.commit()
    write(journal, ["c"])
    assert ids_in(tmp_path) == ["a", "b", "c"]
    assert (journal.state().records, journal.state().dropped) == (3, 1)


def test_the_records_of_one_commit_are_read_or_lost_together(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for id in "ab":
        journal.append(**entry(id))
    journal.commit()
    write(journal, ["c"])
    journal.close()
    path = only_segment(tmp_path)
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    assert [r.id for r in read_segment(path).records] == ["c"]


def test_rules_sample_requests_and_omit_inputs(tmp_path: Path) -> None:
    rules = {"half": RecordingRule(sample=0.5), "bare": RecordingRule(inputs=False)}
    journal = Journal(tmp_path, JournalOptions(models=rules, rule=RecordingRule(sample=0.0)))
    for n in range(400):
        journal.append(**entry(f"h{n}", model="half"))
        journal.append(**entry(f"x{n}", model="other"))
    journal.append(**entry("b", model="bare"))
    assert journal.commit()
    found = list(read_folder(tmp_path))
    half = [r for r in found if r.model == "half"]
    assert 120 < len(half) < 280
    assert {r.sample for r in half} == {0.5}
    (bare,) = [r for r in found if r.model == "bare"]
    assert (bare.features, bare.encoding, bare.inputs()) == (None, "none", None)
    assert bare.predictions == ["setosa"]
    assert not [r for r in found if r.model == "other"]


def test_champion_and_challenger_records_are_sampled_together(tmp_path: Path) -> None:
    next_id, share = id_source(lambda: 1_700_000_000.0), 0.3
    journal = Journal(tmp_path, JournalOptions(rule=RecordingRule(sample=share)))
    for _ in range(5000):
        id = next_id()
        journal.append(**entry(id))
        journal.append(**entry(id, role="shadow", version="4"))
    journal.commit()
    found = list(read_folder(tmp_path))
    by_role = {r: {x.id for x in found if x.role == r} for r in ("champion", "shadow")}
    assert by_role["champion"] == by_role["shadow"]
    assert len(by_role["champion"]) == pytest.approx(5000 * share, rel=0.1)


def old_segment(folder: Path, version: int, records: Sequence[JournalRecord]) -> Path:
    """A segment in one of the first two formats, with a frame for each record."""
    path = folder / "1700000000000000-w-1-abcdef-000001.journal"
    frames = b""
    for record in records:
        payload = msgspec.msgpack.encode([record if version == 1 else JournalRun.of(record)])
        checksum = (zlib.crc32 if version == 1 else zlib.adler32)(payload, 7)
        frames += OLD_FRAME.pack(MARKER, len(payload), checksum) + payload
    path.write_bytes(OLD_HEADER.pack(b"TMJRNL%d\n" % version, 7) + frames)
    return path


@pytest.mark.parametrize("version", [1, 2])
def test_segments_of_older_formats_are_read_with_new_ones(version: int, tmp_path: Path) -> None:
    write(Journal(tmp_path), ["new"])
    (new,) = read_folder(tmp_path)
    old = [msgspec.structs.replace(new, id=id) for id in ("old", "older")]
    page = read_segment(old_segment(tmp_path, version, old))
    assert (page.records, page.finished, page.damaged) == (old, True, 0)
    assert list(read_folder(tmp_path)) == [*old, new]


@pytest.mark.parametrize("version", [1, 2])
@given(position=st.integers(0, 10_000), junk=st.binary(min_size=1, max_size=40))
def test_damage_to_an_older_segment_costs_only_what_it_touches(
    version: int, position: int, junk: bytes
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        write(journal, ["a", "b", "c"])
        journal.close()
        old = list(read_folder(Path(folder)))
        path = old_segment(Path(folder), version, old)
        frame = (path.stat().st_size - OLD_HEADER.size) // 3
        position = OLD_HEADER.size + position % (3 * frame)
        data = path.read_bytes()
        path.write_bytes(data[:position] + junk + data[position:])
        page = read_whole(path)
        frames = [data[OLD_HEADER.size + n * frame :][:frame] for n in range(3)]
        after = path.read_bytes()  # the insertion may leave the bytes of a frame as they were
        assert page.records == [r for r, f in zip(old, frames, strict=True) if f in after]
        assert page.damaged >= len(junk)


def test_an_older_segment_with_a_damaged_header_counts_as_damaged(tmp_path: Path) -> None:
    write(Journal(tmp_path), ["a"])
    path = old_segment(tmp_path, 2, list(read_folder(tmp_path)))
    data = bytearray(path.read_bytes())
    for position in range(OLD_HEADER.size):
        path.write_bytes(data[:position] + bytes([data[position] ^ 2]) + data[position + 1 :])
        page = read_whole(path)
        assert (page.records, page.finished, page.damaged > 0) == ([], True, True)


def test_a_segment_of_a_newer_tidemill_is_not_discarded(tmp_path: Path) -> None:
    path = tmp_path / "1700000000000000-w-1-00000007-000001.journal"
    start = OLD_HEADER.pack(b"TMJRNL9\n", 7)
    path.write_bytes(HEADER.pack(b"TMJRNL9\n", 7, zlib.crc32(start)) + b"what is to come")
    with pytest.raises(OSError, match="newer Tidemill"):
        read_segment(path)


def run_of(counts: Sequence[int], **changes: Any) -> JournalRun:
    total, each = sum(counts), [f"r{n}" for n in range(len(counts))]
    matrix = np.arange(2 * total, dtype="<f8")
    columns = {
        "features": matrix.tobytes(),
        "predictions": [float(n) for n in range(total)],
        "probabilities": np.arange(3 * total, dtype="<f4").tobytes(),
        "encoding": "f8",
        **changes,
    }
    return JournalRun(
        time=1.0, model="m", version="1", role="champion", sample=1.0, ids=each,
        rows=list(counts), latencies=[n / 8 for n in range(len(counts))], request_ids=[*each],
        key_ids=[None] * len(counts), **columns,
    )  # fmt: skip


@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=6), bare=st.booleans())
def test_a_run_is_read_as_one_record_per_request(counts: list[int], bare: bool) -> None:
    run = run_of(counts, **({"features": None, "probabilities": None} if bare else {}))
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        journal.add(run)
        journal.add(run_of([1]))
        assert journal.commit()
        assert journal.state().records == len(counts) + 1
        *found, last = read_folder(Path(folder))
    assert [r.id for r in found] == run.ids
    assert [r.rows for r in found] == counts
    assert [r.latency for r in found] == run.latencies
    assert [p for r in found for p in r.predictions] == run.predictions
    if bare:
        assert {(r.inputs(), r.probability_rows()) for r in found} == {(None, None)}
    else:
        inputs = [row for r in found for row in r.inputs() or ()]
        assert inputs == np.arange(2.0 * sum(counts)).reshape(-1, 2).tolist()
        likely = [row for r in found for row in r.probability_rows() or ()]
        assert likely == np.arange(3.0 * sum(counts)).reshape(-1, 3).tolist()
    assert last.id == "r0"


@pytest.mark.parametrize("name", ["predictions", "features", "probabilities"])
def test_columns_of_different_lengths_lose_only_their_frame(name: str, tmp_path: Path) -> None:
    short = {"predictions": [0.0], "features": b"12345", "probabilities": b"1234567"}
    journal = Journal(tmp_path)
    journal.add(run_of([1, 2], **{name: short[name]}))
    journal.commit()
    write(journal, ["b"])
    page = read_segment(only_segment(tmp_path))
    assert [r.id for r in page.records] == ["b"]
    assert page.damaged > 0


def test_a_record_that_cannot_be_encoded_does_not_lose_its_run(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    run = run_of([1, 1, 1], encoding="values", features=[["a"], ["\ud800"], ["b"]])
    journal.add(run)
    assert journal.commit()
    assert ids_in(tmp_path) == ["r0", "r2"]
    assert (journal.state().records, journal.state().dropped) == (2, 1)


def test_lag_is_the_age_of_the_oldest_closed_segment(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    write(journal, ["a"])
    journal.tick()
    assert journal.state().lag_seconds == 0.0
    assert journal.state().folder_segments == 1
    journal.close()
    path = only_segment(tmp_path)
    hour_ago = int(path.name.partition("-")[0]) - 3_600_000_000
    path.rename(tmp_path / f"{hour_ago:016d}-{path.name.partition('-')[2]}")
    journal.tick()
    assert journal.state().lag_seconds == pytest.approx(3600, abs=60)


def test_only_drafts_of_dead_processes_are_deleted(
    tmp_path: Path,
) -> None:
    dead, fresh, held = (tmp_path / f"{n}.journal.draft" for n in ("dead", "fresh", "held"))
    for path in (dead, fresh, held):
        path.write_bytes(b"")
    for path in (dead, held):
        os.utime(path, (1, 1))
    with held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        Journal(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "fresh.journal.draft",
        "held.journal.draft",
    ]
    assert segments(tmp_path) == []


def test_a_folder_that_cannot_be_used_is_a_settings_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SettingsError, match="journal folder"):
        Journal(tmp_path / "file")


def test_a_file_that_is_not_a_segment_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "1700000000000-w-1-x-000001.journal").write_bytes(b"something else entirely")
    page = read_segment(only_segment(tmp_path))
    assert (page.records, page.finished, page.damaged) == ([], True, 23)


@settings(max_examples=30)
@given(data=st.binary(max_size=400))
def test_the_reader_accepts_arbitrary_bytes(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        write(journal, ["a"])
        journal.close()
        path = only_segment(Path(folder))
        with path.open("ab") as file:
            file.write(data)
        page = read_whole(path)
        assert [r.id for r in page.records] == ["a"]
        assert page.damaged + page.torn == len(data)

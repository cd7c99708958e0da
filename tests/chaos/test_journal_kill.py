"""A process is killed while it records predictions: what it acknowledged is in the journal."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.journal_writer import start_writer
from tidemill.serving.journal.segments import discard, read_segment, segments

pytestmark = pytest.mark.chaos


def start(folder: Path, name: str) -> subprocess.Popen[str]:
    return start_writer(folder, name, segment_bytes=20_000, stdout=subprocess.PIPE, text=True)


def test_kill_9_loses_no_acknowledged_prediction(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    for run in range(4):
        workers = [start(tmp_path, f"run{run}worker{n}") for n in range(2)]
        for worker in workers:
            assert worker.stdout
            acknowledged |= {
                worker.stdout.readline().strip() for _ in range(random.randint(500, 3000))
            }
            worker.send_signal(signal.SIGKILL)
            rest = worker.stdout.read().splitlines(keepends=True)
            acknowledged |= {line.strip() for line in rest if line.endswith("\n")}
            assert worker.wait() == -signal.SIGKILL
            worker.stdout.close()
    recorded: list[str] = []
    for segment in segments(tmp_path):
        assert segment.closed, "the kernel releases the lock of a killed writer"
        offset, finished = 0, False
        while not finished:
            page = read_segment(segment.path, offset, limit=5000)
            recorded += [r.id for r in page.records]
            offset, finished = page.next_offset, page.finished
        discard(segment.path)
    assert len(recorded) == len(set(recorded)), "no record is read twice"
    assert acknowledged <= set(recorded)
    assert segments(tmp_path) == []


def test_a_reader_of_an_open_segment_reads_each_record_once_and_in_order(
    tmp_path: Path,
) -> None:
    with start(tmp_path, "w") as worker:
        assert worker.stdout
        offsets: dict[str, int] = {}
        read: list[int] = []
        acknowledged = -1
        while len(read) < 20_000:
            acknowledged = int(worker.stdout.readline().partition(".")[2])
            if acknowledged % 97 == 0:
                read += poll(tmp_path, offsets)
        worker.send_signal(signal.SIGKILL)
        lines = worker.stdout.read().splitlines(keepends=True)
        finished = [line for line in lines if line.endswith("\n")]
        acknowledged = int(finished[-1].partition(".")[2]) if finished else acknowledged
    read += poll(tmp_path, offsets)
    assert read == list(range(len(read)))
    assert acknowledged < len(read)
    assert segments(tmp_path) == []


def poll(folder: Path, offsets: dict[str, int]) -> list[int]:
    """Read as ingest does: continue at the stored offsets, discard finished segments."""
    numbers: list[int] = []
    for segment in segments(folder):
        key, finished = segment.path.name, False
        while True:
            page = read_segment(segment.path, offsets.get(key, 0), limit=3000)
            assert page.damaged == 0 or page.finished
            moved = page.next_offset > offsets.get(key, 0)
            offsets[key], finished = page.next_offset, page.finished
            numbers += [int(r.id.partition(".")[2]) for r in page.records]
            if finished or not moved:
                break
        if finished:
            discard(segment.path)
    return numbers


# The kernel limits files to 20,000 bytes: a write is first cut short, the next one fails.
SMALL_DISK = """
import resource, signal, sys
from pathlib import Path
from tidemill.serving.journal.journal import Journal
from tidemill.serving.journal.policy import JournalOptions

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
journal = Journal(Path(sys.argv[1]), JournalOptions(when_full=sys.argv[2]))
for number in range(1000):
    if number % 50 == 0:
        journal.tick()
    journal.append(
        id=str(number), time=0.0, model="m", version="1", features=b"\\0" * 300, encoding="f4",
        predictions=["yes"], probabilities=None, latency=0.0,
    )
    if journal.commit():
        print(number)
state = journal.state()
assert state.records + state.dropped + state.refused == 1000
print(state.records, file=sys.stderr)
"""


@pytest.mark.parametrize("policy", ["drop", "refuse"])
def test_a_full_disk_loses_nothing_that_was_acknowledged(policy: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SMALL_DISK, str(tmp_path), policy]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    recorded = [r.id for s in segments(tmp_path) for r in read_segment(s.path).records]
    assert 200 < int(done.stderr) < 1000
    assert len(segments(tmp_path)) > 5, "writing must continue in new segments"
    if policy == "refuse":
        assert set(done.stdout.split()) <= set(recorded)
    assert len(recorded) == len(set(recorded)) == int(done.stderr)

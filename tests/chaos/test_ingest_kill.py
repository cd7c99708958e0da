"""Ingest is killed at random, or its database goes away: what was acknowledged is stored, once."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import func, select

from tests.chaos.journal_writer import start_writer
from tests.servers import private_postgres, wait_until
from tests.unit.loop.ingest.test_ingest import ids, stored, write
from tests.unit.stores.predictions.test_predictions import record
from tidemill.loop.ingest import process
from tidemill.loop.ingest.drain import Ingest
from tidemill.loop.ingest.signatures import SignatureLookup
from tidemill.loop.ingest.state import read_state
from tidemill.serving.journal.journal import Journal
from tidemill.serving.journal.segments import segments
from tidemill.settings import Settings
from tidemill.stores.database.database import Database
from tidemill.stores.database.schema import migrate
from tidemill.stores.database.tables import predictions
from tidemill.stores.predictions.feedback import Feedback, NewLabel

pytestmark = pytest.mark.chaos
LIVES = 25

# Imports once, then forks one ingest after another and kills each after a random while. It prints
# a line for each life, so that the test knows how far it is.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from tidemill.loop.ingest.drain import Ingest
from tidemill.loop.ingest.signatures import Signatures
from tidemill.stores.database.database import Database

folder, url, lives = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
database = Database(url)  # without a connection, which no two processes could share
for life in range(lives):
    child = os.fork()
    if child == 0:
        size = random.choice([2_000, 60_000])
        ingest = Ingest(database, folder, Signatures(), page_bytes=size)
        while True:
            ingest.drain()
            time.sleep(0.001)
    time.sleep(random.uniform(0.02, 1.2))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(life, flush=True)
"""


def start(folder: Path, output: Path) -> subprocess.Popen[bytes]:
    """Some 10,000 predictions a second, in small segments."""
    with output.open("wb") as out:
        return start_writer(folder, output.name, segment_bytes=500_000, pause=0.002, stdout=out)


def test_kill_9_of_ingest_stores_exactly_what_was_acknowledged(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    writers = [start(folder, tmp_path / name) for name in ("a", "b")]
    labels = Feedback(database)
    killing = [sys.executable, "-c", KILLED, str(folder), database_url, str(LIVES)]
    with subprocess.Popen(killing, stdout=subprocess.PIPE, text=True) as killer:
        assert killer.stdout
        for line in killer.stdout:
            labels.add([NewLabel(f"{name}.{line.strip()}", "yes") for name in ("a", "b")])
        assert killer.wait() == 0
    for writer in writers:
        writer.kill()
        writer.wait()
    before = len(stored(database))
    assert before > 0, "the lives were long enough to store something"
    Ingest(database, folder, SignatureLookup()).drain()
    acknowledged = {
        line for name in ("a", "b") for line in (tmp_path / name).read_text().splitlines()[:-1]
    }
    kept = stored(database)
    assert len(kept) == len(set(kept))
    assert acknowledged <= set(kept)
    assert len(kept) - len(acknowledged) <= 2 * 30 + 2, "no more than each writer's last turn"
    assert segments(folder) == []
    assert labels.counts() == {"joined": 2 * LIVES}


def test_an_outage_of_the_database_lets_the_journal_grow_and_ends(
    home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "journal"
    with private_postgres() as server:
        database = Database(server.url)
        migrate(database)
        database.close()
        settings = Settings(
            database_url=server.url, journal_dir=folder, ingest_interval=0.05,
            ingest_metrics_port=0, retention_days=0,
        )  # fmt: skip
        stop = threading.Event()
        thread = threading.Thread(target=process.run, args=(settings, stop))
        journal = Journal(folder)
        write(journal, record(1))
        thread.start()
        try:
            wait_until(lambda: (s := read_state(home)) and s.rows == 1, "the first row")
            server.stop("immediate")
            write(journal, record(2))
            wait_until(lambda: (s := read_state(home)) and s.problem, "the outage to be told")
            state = read_state(home)
            assert state is not None
            assert state.backlog_bytes > 0
            server.start()
            wait_until(lambda: (s := read_state(home)) and s.rows == 2, "the second row")
            wait_until(lambda: (s := read_state(home)) and s.problem is None, "the end of it")
        finally:
            stop.set()
            thread.join()
        reader = Database(server.url)
        assert stored(reader) == ids(1, 2)
        with reader.read() as connection:
            count = connection.execute(select(func.count()).select_from(predictions)).scalar_one()
        reader.close()
        assert count == 2

"""Ingest is killed at random, or its database fails: what was acknowledged is stored once."""

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
KILLS = 25

# Imports once, then forks one ingest process after another and kills each after a random time. It
# prints a line after each kill, so that the test can follow.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from tidemill.loop.ingest.drain import Ingest
from tidemill.loop.ingest.signatures import SignatureLookup
from tidemill.stores.database.database import Database

folder, url, kills = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
database = Database(url)  # not connected yet: processes cannot share a connection
for number in range(kills):
    child = os.fork()
    if child == 0:
        size = random.choice([2_000, 60_000])
        ingest = Ingest(database, folder, SignatureLookup(), page_bytes=size)
        while True:
            ingest.drain()
            time.sleep(0.001)
    time.sleep(random.uniform(0.02, 1.2))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(number, flush=True)
"""


def start(folder: Path, output: Path) -> subprocess.Popen[bytes]:
    """Write some 10,000 predictions a second, in small segments."""
    with output.open("wb") as out:
        return start_writer(folder, output.name, segment_bytes=500_000, pause=0.002, stdout=out)


def test_kill_9_of_ingest_stores_exactly_what_was_acknowledged(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    writers = [start(folder, tmp_path / name) for name in ("a", "b")]
    labels = Feedback(database)
    killing = [sys.executable, "-c", KILLED, str(folder), database_url, str(KILLS)]
    with subprocess.Popen(killing, stdout=subprocess.PIPE, text=True) as killer:
        assert killer.stdout
        for line in killer.stdout:
            labels.add([NewLabel(f"{name}.{line.strip()}", "yes") for name in ("a", "b")])
        assert killer.wait() == 0
    for writer in writers:
        writer.kill()
        writer.wait()
    before = len(stored(database))
    assert before > 0, "nothing was stored before the kills"
    Ingest(database, folder, SignatureLookup()).drain()
    acknowledged = {
        line for name in ("a", "b") for line in (tmp_path / name).read_text().splitlines()[:-1]
    }
    kept = stored(database)
    assert len(kept) == len(set(kept))
    assert acknowledged <= set(kept)
    assert len(kept) - len(acknowledged) <= 2 * 30 + 2, "no more than each writer's last batch"
    assert segments(folder) == []
    assert labels.counts() == {"joined": 2 * KILLS}


def test_the_journal_grows_during_a_database_outage_and_is_stored_after_it(
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
            wait_until(lambda: (s := read_state(home)) and s.problem, "the outage to be reported")
            state = read_state(home)
            assert state is not None
            assert state.backlog_bytes > 0
            server.start()
            wait_until(lambda: (s := read_state(home)) and s.rows == 2, "the second row")
            wait_until(
                lambda: (s := read_state(home)) and s.problem is None, "the end of the outage"
            )
        finally:
            stop.set()
            thread.join()
        reader = Database(server.url)
        assert stored(reader) == ids(1, 2)
        with reader.read() as connection:
            count = connection.execute(select(func.count()).select_from(predictions)).scalar_one()
        reader.close()
        assert count == 2

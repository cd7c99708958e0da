"""Ingest, database and worker are killed at random during a replay: nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.servers import PostgresServer, private_postgres
from tidemill.cli.local.replay_run import ReplayOptions, run_replay
from tidemill.loop.replay.record import ReplayPace

pytestmark = pytest.mark.chaos

PROJECT = """
from sklearn.linear_model import LogisticRegression
from tidemill import Candidate, Gate, Project, csv

project = Project(
    name="tides",
    data=csv("rows.csv"),
    target="level",
    candidates=[Candidate("linear", LogisticRegression)],
    gate=Gate(metric="accuracy"),
)
"""


def write_table(folder: Path) -> Path:
    """Write 2,000 rows whose labels are inverted after row 1,100."""
    drawn = np.random.default_rng(4)
    moon, wind = drawn.normal(size=2000), drawn.normal(size=2000)
    high = (moon + 0.4 * wind > 0) ^ (np.arange(2000) >= 1100)
    level = np.where(high, "high", "low")
    pd.DataFrame({"moon": moon, "wind": wind, "level": level}).to_csv(
        folder / "rows.csv", index=False
    )
    (folder / "project.py").write_text(PROJECT)
    return folder / "rows.csv"


class Killer:
    """Kills one of the three every 5 to 12 seconds until it is stopped."""

    def __init__(self, stage: Any, database: PostgresServer) -> None:
        self.kills: dict[str, int] = {"ingest": 0, "worker": 0, "database": 0}
        self._stage, self._database = stage, database
        self._stop = threading.Event()
        self._random = random.Random(8)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(300)

    def _run(self) -> None:
        victims = ["ingest", "database", "worker"]
        while not self._stop.wait(self._random.uniform(5, 12)):
            victim = victims[sum(self.kills.values()) % 3]
            self.kills[victim] += 1
            if victim == "database":
                self._database.stop("immediate")
                self._database.start()
            else:
                child = self._stage.children[victim]
                child.failures = 0  # so that the supervisor does not see a crash loop
                process = child.process
                if process is not None and process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)


def test_everything_that_was_sent_is_stored(tmp_path: Path) -> None:
    table = write_table(tmp_path)
    with private_postgres() as server:
        killers: list[Killer] = []

        def during(stage: Any) -> None:
            killers.append(Killer(stage, server))

        options = ReplayOptions(
            table, str(tmp_path / "project.py"), None, None, 700, None,
            ReplayPace(batch=20, delay=60, check_every=2), separate_ingest=True,
            database=server.url,
        )  # fmt: skip
        try:
            report = run_replay(options, tmp_path / "played", during=during)
        finally:
            for killer in killers:
                killer.stop()
        document = report.document
        assert min(killers[0].kills.values()) > 0, killers[0].kills
        assert document["predictions_sent"] == document["predictions_stored"] == 1300
        assert document["labels_sent"] == document["labels_stored"] == 1300
        assert sum(document["versions"].values()) == 1300

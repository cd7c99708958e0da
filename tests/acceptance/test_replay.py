"""`tidemill replay` on several kinds of tables, and replays that end early."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.slow

ROWS, WARMUP = 1600, 400
PROJECT = """
from sklearn.linear_model import {model}
from tidemill import Candidate, Contest, Gate, Project, csv

project = Project(
    "tides", csv("rows.csv"), "{target}", [Candidate("linear", {model})],
    gate=Gate(metric="{metric}"), contest=Contest(wait=100), drop=["when"],
)
"""


def regression(folder: Path) -> list[str]:
    """A number that turns around after 700 rows, in the order of seconds since the epoch."""
    drawn = np.random.default_rng(4)
    moon, wind = drawn.normal(size=ROWS), drawn.normal(size=ROWS)
    turned = np.where(np.arange(ROWS) < 700, 1, -1)
    level = 10 + 3 * turned * moon + wind + 0.3 * drawn.normal(size=ROWS)
    when = 1.7e9 + 900.5 * np.arange(ROWS)
    frame = pd.DataFrame({"when": when, "moon": moon, "wind": wind, "level": level})
    return _written(folder, frame, "LinearRegression", "level", "mae")


def texts(folder: Path) -> list[str]:
    """Classes with spaces, gaps, categories of which one is new, in the order of dates."""
    drawn = np.random.default_rng(5)
    size, plan = drawn.normal(size=ROWS), drawn.choice(["a", "b", "c d"], ROWS)
    turned = np.arange(ROWS) >= 700
    high = (size + (plan == "a") > 0.5) ^ turned
    grade = np.where(high, "très bon", "not good")
    plan = np.where(np.arange(ROWS) > 1000, np.where(plan == "b", "new", plan), plan)
    frame = pd.DataFrame({"size": size.round(3), "plan": plan, "grade": grade}, dtype=object)
    frame.loc[::9, "size"] = None
    frame.loc[::11, "plan"] = None
    when = pd.date_range("2024-01-01", periods=ROWS, freq="37min", tz="Europe/Berlin")
    frame.insert(0, "when", [moment.isoformat() for moment in when])
    return _written(folder, frame, "LogisticRegression", "grade", "accuracy")


def _written(folder: Path, frame: pd.DataFrame, model: str, target: str, metric: str) -> list[str]:
    frame.sample(frac=1, random_state=2).to_csv(folder / "rows.csv", index=False)
    text = PROJECT.format(model=model, target=target, metric=metric)
    (folder / "project.py").write_text(text)
    return ["rows.csv", "-p", "project.py", "--time", "when", "--label-delay", "100"]


class Replay:
    """A running `tidemill replay` whose output goes to a file."""

    def __init__(self, folder: Path, options: list[str]) -> None:
        self.folder, self.output = folder, folder / "output.txt"
        command = [sys.executable, "-m", "tidemill", "replay", *options, "--warmup", str(WARMUP)]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        with self.output.open("w") as out:
            self.process = subprocess.Popen(
                [*command, "-o", "played"], cwd=folder, stdout=out, stderr=subprocess.STDOUT,
                env={**clean, "COLUMNS": "300"},
            )  # fmt: skip

    @property
    def printed(self) -> str:
        return self.output.read_text()

    def wait(self) -> int:
        return self.process.wait(1500)

    def await_rows(self) -> None:
        """Until something has been predicted."""
        database = self.folder / "played" / "home" / "tidemill.db"
        deadline = time.monotonic() + 900
        while not _predicted(database):
            assert self.process.poll() is None, self.printed
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.2)

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "played" / "replay.json").read_text())
        page = (self.folder / "played" / "replay.html").read_text()
        assert "data:image/png;base64," in page
        assert ("Stopped before the end." in page) == found["interrupted"]
        return found


def _predicted(database: Path) -> int:
    """How many predictions are stored; none before there is a table."""
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection,
    ):
        return int(connection.execute("select count(*) from predictions").fetchone()[0])
    return 0


@pytest.mark.parametrize("table", [regression, texts])
def test_a_table_is_replayed_to_its_end(table: Any, tmp_path: Path) -> None:
    replay = Replay(tmp_path, table(tmp_path))
    assert replay.wait() == 0, replay.printed
    found = replay.document()
    live = ROWS - WARMUP
    assert found["task"] == ("regression" if table is regression else "classification")
    assert (found["rows"], found["rows_refused"], found["requests_failed"]) == (live, 0, 0)
    assert found["predictions_sent"] == found["predictions_stored"] == live
    assert found["labels_sent"] == found["labels_stored"] == live
    assert not [event for event in found["events"] if event["kind"] == "failed"], found["events"]
    assert [event["kind"] for event in found["events"]][:3] == ["trigger", "closed", "swap"]
    loop, alone, *schedules = found["ways"]
    assert loop["loss"] < 0.8 * alone["loss"]
    assert loop["retrainings"] * 2 <= schedules[0]["retrainings"]
    assert len(schedules) == 2


def test_a_stopped_replay_reports_the_rows_so_far(tmp_path: Path) -> None:
    replay = Replay(tmp_path, regression(tmp_path))
    replay.await_rows()
    replay.process.send_signal(signal.SIGINT)
    assert replay.wait() == 0, replay.printed
    found = replay.document()
    assert found["stopped"] == "It was interrupted."
    assert 0 < found["rows"] < ROWS - WARMUP
    assert found["predictions_sent"] == found["predictions_stored"]
    assert [way["name"] for way in found["ways"]] == ["the loop", "left alone"]


def test_a_replay_whose_server_is_gone_reports_and_fails(tmp_path: Path) -> None:
    """The server is killed each time it comes back, until it is given up."""
    replay = Replay(tmp_path, regression(tmp_path))
    replay.await_rows()
    pattern = f"TIDEMILL_HOME={tmp_path / 'played' / 'home'}"
    while replay.process.poll() is None:
        for process in Path("/proc").glob("[0-9]*"):
            if _is_server(process, pattern):
                os.kill(int(process.name), signal.SIGKILL)
        time.sleep(0.1)
    printed = replay.printed
    assert replay.process.returncode == 1, printed
    assert re.search(r"Unavailable: The api process ended \d times in a row", printed), printed
    assert "Traceback" not in printed
    found = replay.document()
    assert found["interrupted"]
    assert "api process ended" in found["stopped"]
    assert 0 < found["rows"] < ROWS - WARMUP


def _is_server(process: Path, pattern: str) -> bool:
    """Whether it is the server of the replay's home, by its command and environment."""
    try:
        command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return "one_port" in command and pattern in (process / "environ").read_text()
    except OSError:
        return False

"""Time to read a window and to join labels, compared with the bare queries.

    .venv/bin/python -m benchmarks.windows --postgres postgresql://postgres@127.0.0.1:5432/postgres

The lower bound of a window is fetching and discarding the same rows; that of labels is inserting as
many rows into the same table in one transaction. Results are medians over the rounds, in seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert, select

from benchmarks.ingest import databases, timed
from tidemill.serving.journal.record_types import JournalRecord
from tidemill.signature import Column, Signature
from tidemill.stores.database.database import Database
from tidemill.stores.database.tables import feedback, predictions
from tidemill.stores.predictions.feedback import Feedback, NewLabel
from tidemill.stores.predictions.predictions import Predictions

ROWS, BATCH, LABELS, INPUTS = 100_000, 1_000, 1_000, 30
SIGNATURE = Signature(
    "classification",
    "answer",
    tuple(Column(f"x{n}", "number") for n in range(INPUTS)),
    labels=("no", "yes"),
)


def fill(database: Database) -> None:
    random, began = np.random.default_rng(7), time.time() - ROWS
    for start in range(0, ROWS, BATCH):
        probabilities = random.dirichlet(np.ones(2), BATCH).astype("<f4")
        record = JournalRecord(
            f"b{start:08d}", began + start, "benchmark", "1", BATCH, "f4",
            random.random((BATCH, INPUTS), np.float32).tobytes(),
            ["yes" if p[1] > p[0] else "no" for p in probabilities], probabilities.tobytes(), 0.001,
        )  # fmt: skip
        Predictions(database).add([record], {("benchmark", "1"): SIGNATURE})


def label_rows(number: int) -> list[dict[str, Any]]:
    row = {"actual": '"no"', "time": 1.0, "outcome": "conflict", "replaces": False}
    return [{**row, "prediction_id": f"limit-{number}-{n}"} for n in range(LABELS)]


def measure(database: Database, rounds: int) -> dict[str, float]:
    reader, labels = Predictions(database), Feedback(database)
    spent: dict[str, list[float]] = {}

    def timing(name: str, work: Callable[[], Any]) -> None:
        began = time.process_time()
        spent.setdefault(name, []).append(timed(work))
        spent.setdefault(f"{name}: CPU of the client", []).append(time.process_time() - began)

    def fetch() -> None:
        with database.read() as connection:
            connection.execute(select(predictions)).all()

    def put(rows: list[dict[str, Any]]) -> None:
        with database.write() as connection:
            connection.execute(insert(feedback), rows)

    for number in range(rounds):
        timing("window of 100,000 rows", lambda: reader.window("benchmark"))
        timing("its lower bound", fetch)
        start = number * LABELS
        new = [NewLabel(f"b{start:08d}-{n}", "yes") for n in range(LABELS)]
        timing("1,000 labels", partial(labels.add, new))
        timing("their lower bound", partial(put, label_rows(number)))
        timing("window of the 1,000 newest labels",
             lambda: reader.window("benchmark", labelled=True, last=LABELS))  # fmt: skip
    return {name: statistics.median(times) for name, times in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.windows", description=__doc__)
    parser.add_argument("--postgres", help="URL of a server on which a database can be created")
    parser.add_argument("--rounds", "--turns", type=int, default=5)
    options = parser.parse_args()
    with (
        contextlib.ExitStack() as stack,
        tempfile.TemporaryDirectory(prefix=f"tm-{secrets.token_hex(2)}") as scratch,
    ):
        opened = stack.enter_context(databases(Path(scratch), options.postgres))
        found: dict[str, dict[str, float]] = {}
        for name, database in opened.items():
            fill(database)
            found[name] = measure(database, options.rounds)
        print(f"| operation | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
        for what in next(iter(found.values())):
            columns = " | ".join(f"{figures[what]:.3f} s" for figures in found.values())
            print(f"| {what} | {columns} |")


if __name__ == "__main__":
    main()

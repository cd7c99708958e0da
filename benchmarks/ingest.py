"""Throughput of ingest, compared with the fastest bulk insert of the same database.

    .venv/bin/python -m benchmarks.ingest --postgres postgresql://postgres@127.0.0.1:5432/postgres

A journal is written once per kind of traffic. Each round measures two things: ingest draining a
copy of the journal into an empty table, and the upper bound, a bulk insert of the same prepared
rows into the same table with its indexes (`COPY` on PostgreSQL, `executemany` in one transaction on
SQLite). Results are medians over the rounds; ratios are computed within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import secrets
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from sqlalchemy import make_url, text

from tidemill.loop.ingest.drain import Ingest
from tidemill.loop.ingest.process import reduce_gc
from tidemill.loop.ingest.signatures import SignatureLookup
from tidemill.serving.journal.journal import Journal
from tidemill.serving.journal.record_types import JournalRecord
from tidemill.serving.journal.segments import read_segment, segments
from tidemill.stores.database.database import Database
from tidemill.stores.database.schema import migrate
from tidemill.stores.predictions.prediction_rows import PredictionRow, rows_from_record

PAGE = Path("docs/benchmarks/ingest.md")
KINDS = {
    # name: rows, rows per record, inputs, labels
    "one row of 30 numbers": (200_000, 1, 30, 2),
    "batches of 100 rows": (200_000, 100, 30, 2),
    "one row, inputs not stored": (200_000, 1, 0, 2),
    "one image of 784 numbers": (40_000, 1, 784, 10),
}
COMMIT = 16  # records of one event-loop tick


def write_journal(folder: Path, kind: str, scale: float) -> None:
    """Write a journal as a server does."""
    count, size, inputs, labels = KINDS[kind]
    count = int(count * scale)
    random = np.random.default_rng(7)
    journal = Journal(folder)
    started = time.time()
    for number in range(count // size):
        probabilities = random.dirichlet(np.ones(labels), size).astype("<f4")
        features = random.random((size, inputs), np.float32)
        journal.append(
            id=f"{int(started * 1000) + number // 50:011x}0123456789{number & 0xFFFFF:05x}",
            time=started + number / 50_000,
            model="benchmark",
            version="1",
            features=features.tobytes() if inputs else None,
            encoding="f4" if inputs else "none",
            predictions=[f"label {index}" for index in probabilities.argmax(axis=1)],
            probabilities=probabilities.tobytes(),
            latency=0.0005,
            request_id=None,
            key_id="k1",
        )
        if number % COMMIT == COMMIT - 1:
            journal.commit()
    journal.close()


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def empty(database: Database) -> None:
    with database.write() as connection:
        for table in ("predictions", "journal_offsets"):
            connection.execute(text(f"DELETE FROM {table}"))
    if database.dialect == "postgresql":
        raw = database.engine.raw_connection()
        raw.driver_connection.autocommit = True
        raw.cursor().execute("VACUUM FULL predictions")
        raw.driver_connection.autocommit = False
        raw.close()


def server_cpu(database: Database) -> float:
    """Return the CPU seconds of the PostgreSQL process of our connection, if it is local."""
    if database.dialect == "sqlite":
        return 0.0
    with database.read() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ingest(database: Database, journal: Path, rows: int) -> tuple[float, float, float]:
    """Return wall seconds, and CPU seconds of this process and of the database's process."""
    with tempfile.TemporaryDirectory(dir=journal.parent) as scratch:
        copy = Path(scratch) / "journal"
        shutil.copytree(journal, copy)
        worker = Ingest(database, copy, SignatureLookup(lambda model, version: None))
        there, here = server_cpu(database), time.process_time()
        seconds = timed(worker.drain)
        cpu = time.process_time() - here, server_cpu(database) - there
        assert worker.counts.rows == rows
    return seconds, *cpu


def copy_text(rows: list[PredictionRow]) -> bytes:
    """Encode the rows in PostgreSQL's COPY text format."""
    out = io.StringIO()
    for row in rows:
        fields = (
            r"\N" if v is None else rf"\\x{v.hex()}" if isinstance(v, bytes) else str(v)
            for v in row
        )
        out.write("\t".join(fields) + "\n")
    return out.getvalue().encode()


def limit(database: Database, rows: list[PredictionRow]) -> Callable[[], None]:
    """Return the fastest bulk insert of the rows into the same table, in one transaction."""
    columns = ", ".join(PredictionRow._fields)
    if database.dialect == "sqlite":
        marks = ", ".join("?" * len(PredictionRow._fields))
        statement = f"INSERT INTO predictions ({columns}) VALUES ({marks})"

        def insert() -> None:
            with database.write() as connection:
                raw: Any = connection.connection.driver_connection
                raw.executemany(statement, rows)

        return insert
    data = copy_text(rows)

    def copy() -> None:
        with database.write() as connection:
            raw: Any = connection.connection.driver_connection
            with (
                raw.cursor() as cursor,
                cursor.copy(f"COPY predictions ({columns}) FROM STDIN") as c,
            ):
                for start in range(0, len(data), 1 << 20):
                    c.write(data[start : start + (1 << 20)])

    return copy


def measure(database: Database, journal: Path, rounds: int) -> dict[str, Any]:
    pages = [read_segment(s.path, limit=s.size) for s in segments(journal)]
    records: list[JournalRecord] = [record for page in pages for record in page.records]
    rows = [row for record in records for row in rows_from_record(record)]
    bare = limit(database, rows)
    ours, here, there, limits = [], [], [], []
    for _ in range(rounds):
        empty(database)
        spent = ingest(database, journal, len(rows))
        for times, each in zip((ours, here, there), spent, strict=True):
            times.append(each)
        empty(database)
        limits.append(timed(bare))
    return {
        "rows": len(rows),
        "rows_a_second": len(rows) / statistics.median(ours),
        "limit_rows_a_second": len(rows) / statistics.median(limits),
        "cpu_microseconds_a_row": 1e6 * statistics.median(here) / len(rows),
        "server_microseconds_a_row": 1e6 * statistics.median(there) / len(rows),
        "share_of_limit": statistics.median(b / o for o, b in zip(ours, limits, strict=True)),
        "slowest_rows_a_second": len(rows) / max(ours),
    }


@contextlib.contextmanager
def databases(folder: Path, postgres: str | None) -> Iterator[dict[str, Database]]:
    """Create an empty database of each kind."""
    opened = {"SQLite": Database(f"sqlite:///{folder / 'benchmark.db'}")}
    name = f"tm_bench_{secrets.token_hex(4)}"
    if postgres is not None:
        url = make_url(postgres).set(drivername="postgresql")
        plain = url.render_as_string(hide_password=False)
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        opened["PostgreSQL"] = Database(
            url.set(database=name).render_as_string(hide_password=False)
        )
    try:
        for database in opened.values():
            migrate(database)
        yield opened
    finally:
        for database in opened.values():
            database.close()
        if postgres is not None:
            with psycopg.connect(plain, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def page(results: dict[str, dict[str, dict[str, Any]]], rounds: int) -> str:
    """Render the table for the documentation."""
    lines = [
        "| database | traffic | rows/s | slowest round | upper bound, rows/s | share of the bound "
        "| CPU of ingest, us per row | CPU of the database, us per row |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for database, kinds in results.items():
        for kind, found in kinds.items():
            lines.append(
                f"| {database} | {kind} | {found['rows_a_second']:,.0f} "
                f"| {found['slowest_rows_a_second']:,.0f} "
                f"| {found['limit_rows_a_second']:,.0f} | {found['share_of_limit']:.2f} "
                f"| {found['cpu_microseconds_a_row']:.1f} "
                f"| {found['server_microseconds_a_row']:.1f} |"
            )
    return "\n".join(lines) + f"\n\nMedians of {rounds} rounds."


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    parser.add_argument("--postgres", help="URL of a server on which a database can be created")
    parser.add_argument("--rounds", "--turns", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the number of rows")
    parser.add_argument("--json", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    results: dict[str, dict[str, dict[str, Any]]] = {}
    reduce_gc()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with databases(folder, options.postgres) as opened:
            for number, kind in enumerate(KINDS):
                journal = folder / f"journal{number}"
                write_journal(journal, kind, options.scale)
                for name, database in opened.items():
                    found = measure(database, journal, options.rounds)
                    results.setdefault(name, {})[kind] = found
                    print(name, kind, json.dumps(found), flush=True)
                shutil.rmtree(journal)
    print(page(results, options.rounds))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

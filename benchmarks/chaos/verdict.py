"""Compares what was acknowledged with what is stored."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

from sqlalchemy import func, select

from benchmarks.chaos.processes import Up
from benchmarks.chaos.traffic import MODEL, Sent
from tidemill.errors import TidemillError
from tidemill.platform import Platform
from tidemill.stores.database.database import Database
from tidemill.stores.database.tables import feedback, predictions
from tidemill.stores.jobs.jobs import Jobs

SETTLE_SECONDS = 300.0


@dataclass
class JobCounts:
    """What became of the acknowledged jobs; all but the first should be 0."""

    jobs_acknowledged: int
    jobs_not_ended: int
    jobs_failed: int
    jobs_with_several_versions: int
    jobs_without_version: int


@dataclass
class Verdict:
    """How many were acknowledged, and what is wrong with what is stored."""

    predictions_acknowledged: int
    predictions_stored: int
    predictions_lost: int
    predictions_stored_twice: int
    labels_acknowledged: int
    labels_lost: int
    labels_stored_twice: int
    damaged_bytes: int
    processes_left: int = 0


def wait_for_jobs(up: Up, sent: Sent) -> None:
    """Wait until every acknowledged job has ended, or in vain."""
    _wait(up, lambda database: all(Jobs(database).get(job).done for job in list(sent.jobs)))


def wait_until_stored(up: Up, sent: Sent) -> None:
    """Wait until everything that was acknowledged is stored, or in vain."""

    def stored(database: Database) -> bool:
        found = _stored(database)
        return (
            all(id in found for _, id in sent.answers) and sent.labels <= _labels(database).keys()
        )

    _wait(up, stored)


def _wait(up: Up, done: Callable[[Database], bool]) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    with closing(Database(up.settings().database_uri)) as database:
        while time.monotonic() < deadline:
            with contextlib.suppress(TidemillError):
                if done(database):
                    return
            up.ensure_running()
            time.sleep(1.0)


def count_jobs(up: Up, sent: Sent) -> JobCounts:
    """What became of the jobs, while the registry still exists."""
    with closing(Database(up.settings().database_uri)) as database:
        ended = [Jobs(database).get(job) for job in sent.jobs]
    versions = _versions_by_job(up)
    good = [job.id for job in ended if job.state == "succeeded"]
    return JobCounts(
        jobs_acknowledged=len(sent.jobs),
        jobs_not_ended=sum(not job.done for job in ended),
        jobs_failed=sum(job.state == "failed" for job in ended),
        jobs_with_several_versions=sum(versions[job] > 1 for job in good),
        jobs_without_version=sum(versions[job] == 0 for job in good),
    )


def judge(up: Up, sent: Sent) -> Verdict:
    """Compare the acknowledged predictions and labels with the stored ones."""
    with closing(Database(up.settings().database_uri)) as database:
        stored, labels = _stored(database), _labels(database)
    return Verdict(
        predictions_acknowledged=len(sent.answers),
        predictions_stored=stored.total(),
        predictions_lost=sum(id not in stored for _, id in sent.answers),
        predictions_stored_twice=sum(n > 1 for n in stored.values()),
        labels_acknowledged=len(sent.labels),
        labels_lost=sum(id not in labels for id in sent.labels),
        labels_stored_twice=sum(n > 1 for n in labels.values()),
        damaged_bytes=sum(p.stat().st_size for p in up.home.glob("journal/damaged/*")),
    )


def wrong(found: Mapping[str, int]) -> dict[str, int]:
    """The counts that should be 0 and are not."""
    return {
        name: count
        for name, count in found.items()
        if count and not name.endswith("acknowledged") and name != "predictions_stored"
    }


def _stored(database: Database) -> Counter[str]:
    """How many champions' and canaries' rows each prediction id has."""
    table = predictions.c
    query = select(table.id, func.count()).where(table.role != "shadow").group_by(table.id)
    with database.read() as connection:
        return Counter(dict(map(tuple, connection.execute(query))))


def _labels(database: Database) -> Counter[str]:
    table = feedback.c
    query = select(table.prediction_id, func.count()).where(table.outcome == "joined")
    with database.read() as connection:
        rows = connection.execute(query.group_by(table.prediction_id))
        return Counter(dict(map(tuple, rows)))


def _versions_by_job(up: Up) -> Counter[str]:
    platform = Platform.open(up.settings())
    try:
        found = platform.tracking.search_model_versions(f"name = '{MODEL}'", max_results=10_000)
        return Counter(version.tags.get("tidemill.job_id", "") for version in found)
    finally:
        platform.close()

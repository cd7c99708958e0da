"""Compares what was acknowledged with what is stored."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass

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
class Verdict:
    """How many were acknowledged, and what is wrong with what is stored; all wrong ones are 0."""

    predictions_acknowledged: int
    predictions_stored: int
    predictions_lost: int
    predictions_stored_twice: int
    labels_acknowledged: int
    labels_lost: int
    labels_stored_twice: int
    jobs_acknowledged: int
    jobs_not_ended: int
    jobs_failed: int
    jobs_with_several_versions: int
    jobs_without_version: int
    damaged_bytes: int
    processes_left: int = 0

    @property
    def wrong(self) -> dict[str, int]:
        allowed = {
            "predictions_acknowledged",
            "predictions_stored",
            "labels_acknowledged",
            "jobs_acknowledged",
        }
        return {name: n for name, n in asdict(self).items() if n and name not in allowed}


def wait_until_settled(up: Up, sent: Sent) -> None:
    """Wait until every job has ended and every acknowledged prediction is stored, or in vain."""
    deadline = time.monotonic() + SETTLE_SECONDS
    with closing(Database(up.settings().database_uri)) as database:
        while time.monotonic() < deadline:
            try:
                unfinished = [j for j in sent.jobs if not Jobs(database).get(j).done]
                stored = _stored(database)
                joined = _labels(database)
            except TidemillError:
                unfinished, stored, joined = ["?"], Counter(), Counter()
            missing = any(id not in stored for _, id in sent.answers)
            if not unfinished and not missing and sent.labels <= joined.keys():
                return
            up.ensure_running()
            time.sleep(1.0)


def judge(up: Up, sent: Sent, *, registry_kept: bool) -> Verdict:
    """Compare; without the registry, versions are not counted.

    Args:
        registry_kept: MLflow's database was not deleted.
    """
    with closing(Database(up.settings().database_uri)) as database:
        stored, labels, jobs = _stored(database), _labels(database), Jobs(database)
        ended = [jobs.get(job) for job in sent.jobs]
    versions = _versions_by_job(up) if registry_kept else None
    acknowledged = Counter(id for _, id in sent.answers)
    good = [job.id for job in ended if job.state == "succeeded"]
    return Verdict(
        predictions_acknowledged=len(sent.answers),
        predictions_stored=stored.total(),
        predictions_lost=sum(id not in stored for id in acknowledged),
        predictions_stored_twice=sum(n > 1 for n in stored.values()),
        labels_acknowledged=len(sent.labels),
        labels_lost=sum(id not in labels for id in sent.labels),
        labels_stored_twice=sum(n > 1 for n in labels.values()),
        jobs_acknowledged=len(sent.jobs),
        jobs_not_ended=sum(not job.done for job in ended),
        jobs_failed=sum(job.state == "failed" for job in ended) if registry_kept else 0,
        jobs_with_several_versions=0 if versions is None else sum(versions[j] > 1 for j in good),
        jobs_without_version=0 if versions is None else sum(versions[j] == 0 for j in good),
        damaged_bytes=sum(p.stat().st_size for p in up.home.glob("journal/damaged/*")),
    )


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

"""Latency of list routes with many runs and predictions."""

from __future__ import annotations

import time

from sqlalchemy import MetaData, create_engine, insert, text

from benchmarks.control_setup import api, quantiles
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.database.database import Database


def fill_mlflow(store: str, runs: int) -> None:
    """Insert runs with metrics, parameters and tags directly into MLflow's tables."""
    engine = create_engine(store)
    metadata = MetaData()
    metadata.reflect(engine)
    tables = metadata.tables
    start = int(time.time() * 1000) - runs * 1000
    with engine.begin() as connection:
        experiment = connection.execute(
            insert(tables["experiments"])
            .values(
                name="flowers", artifact_location="/tmp/none", lifecycle_stage="active",
                creation_time=start, last_update_time=start,
            )
            .returning(tables["experiments"].c.experiment_id)
        ).scalar_one()  # fmt: skip
        for first in range(0, runs, 1000):
            ids = [f"{number:032x}" for number in range(first, min(first + 1000, runs))]
            connection.execute(insert(tables["runs"]), [
                {
                    "run_uuid": each, "name": f"run-{each[-5:]}", "source_type": "LOCAL",
                    "status": "FINISHED", "start_time": start + int(each, 16) * 1000,
                    "end_time": start + int(each, 16) * 1000 + 500, "user_id": "bench",
                    "lifecycle_stage": "active", "artifact_uri": f"/tmp/none/{each}",
                    "experiment_id": experiment,
                }
                for each in ids
            ])  # fmt: skip
            metrics = [
                {
                    "run_uuid": each, "key": key, "value": int(each, 16) / runs, "step": 0,
                    "timestamp": start, "is_nan": False,
                }
                for each in ids
                for key in ("f1_score", "accuracy", "precision", "recall")
            ]  # fmt: skip
            connection.execute(insert(tables["latest_metrics"]), metrics)
            connection.execute(insert(tables["metrics"]), metrics)
            for table, keys in (("params", ("C", "penalty")), ("tags", ("tidemill.kind",))):
                rows = [{"run_uuid": e, "key": key, "value": "x"} for e in ids for key in keys]
                connection.execute(insert(tables[table]), rows)
    engine.dispose()


#: SQL that generates the numbers from 0 to `last`.
NUMBERS = {
    "postgresql": "SELECT i FROM generate_series(0, :last) AS n(i)",
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < :last) "
    "SELECT i FROM n",
}
TEXT = {"postgresql": "lpad(to_hex(i), 32, '0')", "sqlite": "printf('%032x', i)"}
ZEROS = {"postgresql": "'\\x00000000'::bytea", "sqlite": "x'00000000'"}


def fill_predictions(database: Database, count: int) -> None:
    """Insert predictions of one model, one per second until now."""
    values = {
        "id": TEXT[database.dialect],
        "time": ":now - i",
        "model": "'flowers'",
        "version": "'1'",
        "role": "'champion'",
        "encoding": "'f4'",
        "features": ZEROS[database.dialect],
        "output": "'\"setosa\"'",
        "confidence": "0.9",
        "milliseconds": "0.2",
        "weight": "1.0",
    }
    statement = (
        f"INSERT INTO predictions ({', '.join(values)}) SELECT {', '.join(values.values())} "
        f"FROM ({NUMBERS[database.dialect]}) AS numbers"
    )
    with database.write() as connection:
        connection.execute(text(statement), {"now": time.time(), "last": count - 1})
        connection.execute(text("ANALYZE predictions"))


WARM_UP, TIMES = 12, 60
LISTS = [
    "/experiments",
    "/experiments/flowers/runs",
    "/experiments/flowers/runs?order_by=metrics.f1_score DESC",
    "/experiments/flowers/runs?order_by=metrics.f1_score DESC&limit=100",
    "/experiments/flowers/runs?where=metrics.f1_score > 0.5",
    "/models",
    "/jobs?limit=100",
    "/audit",
    "/logs?limit=100",
    "/metrics/api",
    "/metrics/models",
    "/predictions?limit=100",
    "/predictions?model=flowers",
    "/database/stats",
]


def list_latency(settings: Settings, platform: Platform) -> dict[str, dict[str, float]]:
    """Measure each list `TIMES` times, after warming up every process involved."""
    key, _ = platform.keys.create(("admin",), actor="benchmark")
    found = {}
    with api(settings) as client:
        for path in LISTS:
            taken = []
            for _ in range(WARM_UP + TIMES):
                began = time.perf_counter()
                client.get(path, headers={"X-API-Key": key}).raise_for_status()
                taken.append(time.perf_counter() - began)
            found[path] = quantiles(taken[WARM_UP:])
    return found

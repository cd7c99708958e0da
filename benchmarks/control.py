"""How quick the control plane is: posts while others train, long lists, more workers.

    python -m benchmarks.control [--posts 500] [--runs 10000] [--predictions 1000000]

Starts private servers on free ports; prints tables and writes docs/benchmarks/control.{md,json}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform as machine
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import MetaData, create_engine, insert

from benchmarks.control_predict import predictions_a_second
from tests.servers import fresh_database, private_mlflow, private_postgres, private_redis
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.database import Database
from tidemill.stores.jobs import NewJob
from tidemill.stores.schema import migrate
from tidemill.stores.tables import predictions

OUT = Path(__file__).parent.parent / "docs" / "benchmarks"
PROJECT = """
from sklearn.neural_network import MLPClassifier
from tidemill import Candidate, Project, sklearn_dataset


def network(rounds: int = 1000) -> MLPClassifier:
    return MLPClassifier((16,), max_iter=rounds, tol=0.0, n_iter_no_change=10**9, random_state=1)


project = Project("flowers", sklearn_dataset("iris"), "target", [Candidate("net", network)])
"""
API = """
import sys, uvicorn
from tidemill.api.app import create_app
from tidemill.platform import Platform
from tidemill.settings import Settings
uvicorn.run(create_app(Platform.open(Settings())), host="127.0.0.1", port=int(sys.argv[1]),
            log_level="warning", access_log=False, lifespan="off")
"""


def environment(settings: Settings) -> dict[str, str]:
    held = settings.model_dump(mode="json", exclude_none=True)
    named = {f"TIDEMILL_{name.upper()}": str(value) for name, value in held.items()}
    return {**os.environ, **named}


@contextmanager
def process(settings: Settings, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    with (settings.home / "benchmark.log").open("ab") as log:
        started = subprocess.Popen(
            [sys.executable, *command], env=environment(settings), stdout=log, stderr=log
        )
    try:
        yield started
    finally:
        started.terminate()
        started.wait(30)


@contextmanager
def api(settings: Settings) -> Iterator[httpx.Client]:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (
        process(settings, "-c", API, str(port)),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        until(lambda: answers(client), 60)
        yield client


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit("waited in vain")
        time.sleep(0.05)


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds at p50, p95 and p99."""
    ordered = sorted(seconds)
    return {
        f"p{q}": round(ordered[min(len(ordered) - 1, len(ordered) * q // 100)] * 1000, 1)
        for q in (50, 95, 99)
    }


def opened(home: Path, **changes: Any) -> tuple[Settings, Platform]:
    home.mkdir(parents=True, exist_ok=True)
    (home / "flowers.py").write_text(PROJECT)
    settings = Settings(
        home=home, project=str(home / "flowers.py"), api_rate_limit="off", **changes
    )
    if settings.database_url:
        database = Database(settings.database_uri)
        migrate(database)
        database.close()
    return settings, Platform.open(settings)


def post_latency(settings: Settings, platform: Platform, posts: int) -> dict[str, float]:
    """POST /train while two trainings run."""
    key, _ = platform.keys.create(("train",), actor="benchmark")
    with (
        process(settings, "-m", "tidemill.worker", "--concurrency", "2"),
        api(settings) as client,
        training(settings, platform),
    ):
        taken = []
        for number in range(posts + 5):
            began = time.perf_counter()
            answer = client.post(
                "/train", json={"net.rounds": 10 + number}, headers={"X-API-Key": key}
            )
            taken.append(time.perf_counter() - began)
            answer.raise_for_status()
        while queued := platform.jobs.page(state="queued", limit=500).items:
            for job in queued:
                platform.jobs.cancel(job.id)
    return quantiles(taken[5:])


@contextmanager
def training(settings: Settings, platform: Platform) -> Iterator[None]:
    """Two fits that last as long as the block, on a worker that runs already."""
    long = NewJob("train", "flowers", settings.project, {"overrides": {"net": {"rounds": 10**9}}})
    busy = [platform.submit(long)[0].id for _ in range(2)]
    until(lambda: all(platform.jobs.get(each).stage == "fit" for each in busy), 600)
    try:
        yield
    finally:
        for each in busy:
            platform.jobs.cancel(each)
        until(lambda: all(platform.jobs.get(each).done for each in busy), 120)


def fill_mlflow(store: str, runs: int) -> None:
    """Runs with metrics, parameters and tags, straight into MLflow's tables."""
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


def fill_predictions(database: Database, count: int) -> None:
    now = time.time()
    for first in range(0, count, 10_000):
        rows = [
            {
                "id": f"{number:032x}", "time": now - number, "model": "flowers", "version": "1",
                "encoding": "f4", "features": bytes(16), "output": '"setosa"',
                "confidence": 0.9, "milliseconds": 0.2, "role": "champion",
            }
            for number in range(first, min(first + 10_000, count))
        ]  # fmt: skip
        with database.write() as connection:
            connection.execute(insert(predictions), rows)


LISTS = [
    "/experiments",
    "/experiments/flowers/runs",
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
    """Each list 40 times."""
    key, _ = platform.keys.create(("admin",), actor="benchmark")
    found = {}
    with api(settings) as client:
        for path in LISTS:
            taken = []
            for _ in range(42):
                began = time.perf_counter()
                client.get(path, headers={"X-API-Key": key}).raise_for_status()
                taken.append(time.perf_counter() - began)
            found[path] = quantiles(taken[2:])
    return found


def throughput(settings: Settings, platform: Platform, workers: int, count: int) -> float:
    """Short jobs a second through that many workers of one slot each."""
    light = settings.model_copy(update={"worker_preload": False, "worker_concurrency": 1})
    with ExitStack() as stack:
        for _ in range(workers):
            stack.enter_context(process(light, "-m", "tidemill.worker"))
        warm = [platform.submit(NewJob("probe"))[0].id for _ in range(workers)]
        until(lambda: all(platform.jobs.get(each).done for each in warm), 120)
        began = time.monotonic()
        probe = NewJob("probe", params={"seconds": 1.0})
        ids = [platform.submit(probe)[0].id for _ in range(count)]
        until(lambda: all(platform.jobs.get(each).done for each in ids), 600)
        return round(count / (time.monotonic() - began), 2)


def measure(posts: int, runs: int, rows: int) -> dict[str, Any]:
    found: dict[str, Any] = {"lists": {}}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root = Path(folder)
        postgres = stack.enter_context(private_postgres())
        redis = stack.enter_context(private_redis())
        scaled = {"broker_url": redis.url, "limits_url": redis.url}
        urls = [stack.enter_context(fresh_database(postgres.url)) for _ in range(2)]
        mlflow = stack.enter_context(private_mlflow(root, urls[1]))
        embedded = opened(root / "embedded")
        big = opened(root / "scaled", database_url=urls[0], tracking_uri=mlflow.url, **scaled)
        setups = {"SQLite, folder": embedded, "PostgreSQL, Redis, MLflow server": big}
        found["posts"] = {name: post_latency(*each, posts) for name, each in setups.items()}
        with process(embedded[0], "-m", "tidemill.worker", "--concurrency", "2"):
            found["predict"] = predictions_a_second(
                embedded[0], process, lambda: training(*embedded)
            )
        found["throughput"] = {n: throughput(*big, n, 12 * n) for n in (1, 2, 4)}
        embedded[1].tracking.search_experiments()
        for name, (settings, platform) in setups.items():
            store = urls[1] if name.startswith("P") else settings.mlflow_uri
            fill_mlflow(store, runs)
            fill_predictions(platform.database, rows)
            found["lists"][name] = list_latency(settings, platform)
        for _, platform in setups.values():
            platform.close()
    return found


def report(found: dict[str, Any], posts: int, runs: int, rows: int) -> str:
    lines = [
        "# The control plane, measured",
        "",
        f"`python -m benchmarks.control --posts {posts} --runs {runs} --predictions {rows}` on "
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {machine.machine()}, Python "
        f"{machine.python_version()}; load average {os.getloadavg()[1]:.1f} at the end.",
        "",
        f"## POST /train, {posts} times, while two trainings run (target: p99 under 50 ms)",
        "",
        "| set-up | p50 ms | p95 ms | p99 ms | target |",
        "|---|---|---|---|---|",
    ]
    for name, row in found["posts"].items():
        met = "met" if row["p99"] < 50 else "missed"
        lines.append(f"| {name} | {row['p50']} | {row['p95']} | {row['p99']} | {met} |")
    predict = found["predict"]
    lines += [
        "",
        "## /predict on one server process, idle and while two trainings run",
        "",
        "| idle, a second | training, a second | median share left | target on spare cores |",
        "|---|---|---|---|",
        f"| {predict['idle']:,} | {predict['training']:,} | {predict['share']} | 0.75 |",
        "",
        "The load, the server and both fits share the cores that are named above.",
        "",
        f"## Lists with {runs:,} runs and {rows:,} predictions (target: p95 under 200 ms)",
        "",
        "| list | set-up | p50 ms | p95 ms | target |",
        "|---|---|---|---|---|",
    ]
    for name, paths in found["lists"].items():
        for path, row in paths.items():
            met = "met" if row["p95"] < 200 else "missed"
            lines.append(f"| `{path}` | {name} | {row['p50']} | {row['p95']} | {met} |")
    lines += [
        "",
        "## Jobs of one second through workers with one slot each, on Redis",
        "",
        "| workers | jobs a second |",
        "|---|---|",
    ]
    lines += [f"| {count} | {rate} |" for count, rate in found["throughput"].items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--posts", type=int, default=500)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--predictions", type=int, default=1_000_000)
    given = parser.parse_args()
    found = measure(given.posts, given.runs, given.predictions)
    text = report(found, given.posts, given.runs, given.predictions)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "control.md").write_text(text)
    (OUT / "control.json").write_text(json.dumps(found, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()

"""Benchmark the control plane: POST latency during training, long lists, worker scaling.

    python -m benchmarks.control [--parts posts,predict,throughput,lists] [--posts 500] ...

Starts private servers on free ports; prints tables and writes docs/benchmarks/control.{md,json}.
Parts that are not measured keep their entry in control.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform as machine
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.control_lists import fill_mlflow, fill_predictions, list_latency
from benchmarks.control_predict import predictions_per_second
from benchmarks.control_setup import api, opened, process, quantiles, training, until
from tests.servers import fresh_database, private_mlflow, private_postgres, private_redis
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.jobs.jobs import NewJob

OUT = Path(__file__).parent.parent / "docs" / "benchmarks"
PARTS = ("posts", "predict", "throughput", "lists")
#: Default counts; `jobs` is per worker.
SIZES = {"posts": 500, "runs": 10_000, "predictions": 1_000_000, "jobs": 12}


def post_latency(settings: Settings, platform: Platform, posts: int) -> dict[str, float]:
    """Measure POST /train while two trainings run."""
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


def throughput(settings: Settings, platform: Platform, workers: int, count: int) -> float:
    """Measure short jobs per second on `workers` workers with one slot each."""
    light = settings.model_copy(update={"worker_preload": False, "worker_concurrency": 1})
    with ExitStack() as stack:
        for _ in range(workers):
            stack.enter_context(process(light, "-m", "tidemill.worker"))
        warm = [platform.submit(NewJob("probe"))[0].id for _ in range(workers)]
        until(lambda: all(platform.jobs.get(each).done for each in warm), "the workers")
        began = time.monotonic()
        probe = NewJob("probe", params={"seconds": 1.0})
        ids = [platform.submit(probe)[0].id for _ in range(count)]
        until(lambda: all(platform.jobs.get(each).done for each in ids), "the jobs")
        return round(count / (time.monotonic() - began), 2)


class ControlPlaneBenchmark:
    """Both set-ups on private servers, and the measurements on them."""

    def __init__(self, stack: ExitStack, sizes: argparse.Namespace) -> None:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(private_postgres())
        redis = stack.enter_context(private_redis())
        url, store = (stack.enter_context(fresh_database(postgres.url)) for _ in range(2))
        mlflow = stack.enter_context(private_mlflow(root, store))
        self.sizes = sizes
        self.embedded = opened(root / "embedded")
        shared = {"broker_url": redis.url, "limits_url": redis.url, "tracking_uri": mlflow.url}
        self.scaled = opened(root / "scaled", database_url=url, **shared)
        self.setups = {
            "SQLite, folder": self.embedded,
            "PostgreSQL, Redis, MLflow server": self.scaled,
        }
        self.stores = (self.embedded[0].mlflow_uri, store)
        for _, platform in self.setups.values():
            stack.callback(platform.close)

    def posts(self) -> dict[str, Any]:
        count = self.sizes.posts
        return {name: post_latency(*each, count) for name, each in self.setups.items()}

    def predict(self) -> dict[str, Any]:
        with process(self.embedded[0], "-m", "tidemill.worker", "--concurrency", "2"):
            return predictions_per_second(
                self.embedded[0], process, lambda: training(*self.embedded)
            )

    def throughput(self) -> dict[str, Any]:
        return {str(n): throughput(*self.scaled, n, self.sizes.jobs * n) for n in (1, 2, 4)}

    def lists(self) -> dict[str, Any]:
        self.embedded[1].tracking.search_experiments()  # creates MLflow's tables
        found = {}
        for (name, each), store in zip(self.setups.items(), self.stores, strict=True):
            fill_mlflow(store, self.sizes.runs)
            fill_predictions(each[1].database, self.sizes.predictions)
            found[name] = list_latency(*each)
        return found


def measure(sizes: argparse.Namespace, part: str) -> dict[str, Any]:
    """Measure a part; return the results with sizes, date and load averages."""
    with ExitStack() as stack:
        benchmark = ControlPlaneBenchmark(stack, sizes)
        load = os.getloadavg()[0]
        return {
            "found": getattr(benchmark, part)(),
            "sizes": {name: getattr(sizes, name) for name in SIZES},
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "load_before": round(load, 1),
            "load_after": round(os.getloadavg()[0], 1),
        }


def report(found: dict[str, Any]) -> str:
    """Render the page, with a section for each measured part."""
    lines = [
        "# Control plane benchmark",
        "",
        f"`python -m benchmarks.control`, {os.cpu_count()} cores, {machine.machine()}, Python "
        f"{machine.python_version()}. The load, the servers and the workers share these cores.",
    ]
    sections = {
        "posts": _posts,
        "predict": _predict,
        "throughput": _throughput,
        "lists": _lists,
    }
    for part, write in sections.items():
        if part in found:
            entry = found[part]
            lines += ["", *write(entry["found"], entry["sizes"]), "", _conditions(entry)]
    return "\n".join(lines) + "\n"


def _conditions(entry: dict[str, Any]) -> str:
    before, after = entry["load_before"], entry["load_after"]
    return f"{entry['date']}; load average {before} before, {after} after."


def _posts(found: dict[str, Any], sizes: dict[str, int]) -> list[str]:
    return [
        f"## POST /train, {sizes['posts']} times, while two trainings run",
        "",
        "| set-up | p50 ms | p95 ms | p99 ms | p99 under 50 ms |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {row['p50']} | {row['p95']} | {row['p99']} | {_met(row['p99'] < 50)} |"
            for name, row in found.items()
        ),
    ]


def _predict(found: dict[str, Any], sizes: dict[str, int]) -> list[str]:
    return [
        "## /predict on one server process, idle and while two trainings run",
        "",
        "| idle, per second | training, per second | median ratio | 0.75 or more |",
        "|---|---|---|---|",
        f"| {found['idle']:,} | {found['training']:,} | {found['share']} "
        f"| {_met(found['share'] >= 0.75)} |",
        "",
        "The target of 0.75 assumes spare cores; here each of the two fits uses a core.",
    ]


def _throughput(found: dict[str, Any], sizes: dict[str, int]) -> list[str]:
    return [
        "## Jobs of one second through workers with one slot each, on Redis",
        "",
        "| workers | jobs per second |",
        "|---|---|",
        *(f"| {count} | {rate} |" for count, rate in found.items()),
    ]


def _lists(found: dict[str, Any], sizes: dict[str, int]) -> list[str]:
    return [
        f"## Lists with {sizes['runs']:,} runs and {sizes['predictions']:,} predictions",
        "",
        "| list | set-up | p50 ms | p95 ms | p95 under 200 ms |",
        "|---|---|---|---|---|",
        *(
            f"| `{path}` | {name} | {row['p50']} | {row['p95']} | {_met(row['p95'] < 200)} |"
            for name, paths in found.items()
            for path, row in paths.items()
        ),
        "",
        "To order runs by a metric, MLflow sorts all runs by every column, which takes 75 to "
        "100 ms with PostgreSQL. The rest is spent on encoding and decoding the runs as JSON "
        "in MLflow's server and client.",
    ]


def _met(met: bool) -> str:
    return "yes" if met else "no"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--parts", default=",".join(PARTS), help="parts to measure, comma-separated"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="output folder")
    for name, default in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "control.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for part in parts:  # saved after each part, because a full run takes minutes
        found[part] = measure(options, part)
        path.write_text(json.dumps(found, indent=2) + "\n")
        (options.out / "control.md").write_text(report(found))
    print(report(found))


if __name__ == "__main__":
    main()

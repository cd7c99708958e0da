"""Latency of a champion with and without a shadow challenger, in alternating phases on one server.

    .venv/bin/python -m benchmarks.shadow

The champion is a logistic regression and the challenger a 100-tree forest, on 30 numbers, with all
features on (key, validation, rate limit, journal). The load sends requests at a constant rate; the
traffic rule is written to the shelf between phases, as the control plane does. The ratio of the two
`off` phases shows the measurement noise.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving import make_home
from benchmarks.serving.cores import layout, pinned, take_precedence
from benchmarks.serving.server import free_port
from benchmarks.serving.steady import Steady, requests_of, steady
from benchmarks.serving.train import split
from tidemill.serving.shelf.shelf import ShelfState, read_state, write_state
from tidemill.serving.shelf.traffic_rules import TrafficRule, write_traffic

CORES = layout()
PAGE = Path("docs/benchmarks/shadow.md")
PHASES = ("off", "shadow", "off again")
RULES = {"shadow": TrafficRule("shadow")}


def make(home: Path) -> str:
    """Create a home with one model: champion regression, challenger forest."""
    make_home.main(home)
    shelved = read_state(home / "shelf").models
    state = ShelfState(models={"m": shelved["logistic"]}, challengers={"m": shelved["forest"]})
    write_state(home / "shelf", state)
    return (home / "token").read_text()


def serve(home: Path, port: int) -> subprocess.Popen[bytes]:
    """Start the data plane in its own process."""
    command = [sys.executable, "-m", "tidemill.serving", "--home", str(home), "--port", str(port)]
    variables = {
        "TIDEMILL_RATE_LIMIT": "1000000000/minute",
        "TIDEMILL_JOURNAL_MAX_BYTES": str(8 << 30),
        "TIDEMILL_CACHE": "off",
        "OMP_NUM_THREADS": "1",
    }
    server_cores, load_cores = CORES
    with pinned(server_cores):
        process = subprocess.Popen(
            [*command, "--log-level", "warning"],
            env={**os.environ, **variables},
            start_new_session=True,
        )
    os.sched_setaffinity(0, load_cores)
    wait(lambda: get(port, "/ready") is not None)
    return process


def get(port: int, path: str) -> bytes | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            found: bytes = answer.read()
            return found
    except OSError:
        return None


def wait(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the server did not become ready")
        time.sleep(0.02)


def set_phase(home: Path, port: int, name: str) -> None:
    """Set the rule of a phase and wait until the server applies it."""
    rule = RULES.get(name, TrafficRule("off"))
    write_traffic(home / "shelf", {"m": rule})

    def applied() -> bool:
        info = json.loads(get(port, "/models/m/info") or b"{}")
        return (info.get("challenger") is not None) == (rule.mode != "off")

    wait(applied)


def metric(port: int, name: str) -> float:
    lines = (get(port, "/metrics") or b"").decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))


def measure(
    home: Path, key: str, rate: float, seconds: float, rounds: int, precedence: bool
) -> dict[str, Any]:
    """Measure rounds of phases at one rate: p50 and p99 as medians, ratios within a round."""
    X = split()[1]
    bodies = [json.dumps({"features": row.tolist()}).encode() for row in X[:64]]
    requests = requests_of(["/models/m/predict"] * len(bodies), bodies, key)
    port = free_port()
    process = serve(home, port)
    for pid in (process.pid, os.getpid()) if precedence else ():
        take_precedence(pid)
    found: dict[str, list[Steady]] = {name: [] for name in PHASES}
    try:
        steady(port, requests, rate=rate, seconds=1.0)
        for _ in range(rounds):
            for name in PHASES:
                set_phase(home, port, name)
                found[name].append(steady(port, requests, rate=rate, seconds=seconds))
        shadowed = metric(port, "tidemill_role_predictions_total")
        dropped = metric(port, "tidemill_shadow_dropped_total")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    return {"rate": rate, "shadowed": shadowed, "dropped": dropped, **summary(found)}


def summary(found: dict[str, list[Steady]]) -> dict[str, Any]:
    """Return milliseconds by phase and ratios to the `off` phase of the same round."""
    quantiles = {
        name: np.array([np.quantile(s.latencies, (0.5, 0.99)) for s in phases]) * 1000
        for name, phases in found.items()
    }
    failed = sum(s.failed for phases in found.values() for s in phases)
    rows: dict[str, Any] = {
        "failed": failed,
        "requests": sum(len(s.latencies) for s in found["shadow"]),
    }
    for name, values in quantiles.items():
        ratios = values / quantiles["off"]
        pooled = np.quantile([v for s in found[name] for v in s.latencies], (0.5, 0.99)) * 1000
        rows[name] = {
            "p50": statistics.median(values[:, 0]),
            "p99": statistics.median(values[:, 1]),
            "p50_ratio": statistics.median(ratios[:, 0]),
            "p99_ratio": statistics.median(ratios[:, 1]),
            "pooled_p50": float(pooled[0]),
            "pooled_p99": float(pooled[1]),
        }
    return rows


def page(results: Sequence[dict[str, Any]], introduction: str) -> str:
    """Render the report."""
    lines = ["# Latency cost of a shadow challenger", "", introduction, ""]
    lines += [
        "| requests/s | phase | p50, ms | p99, ms | p50 over `off` | p99 over `off` |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        for name in PHASES:
            row = result[name]
            lines.append(
                f"| {result['rate']:,.0f} | {name} | {row['p50']:.2f} | {row['p99']:.2f} "
                f"| {row['p50_ratio']:.2f}x | {row['p99_ratio']:.2f}x |"
            )
    lines += ["", "| requests/s | requests in the shadow phase | shadowed | dropped | failed |"]
    lines += ["| ---: | ---: | ---: | ---: | ---: |"]
    for result in results:
        lines.append(
            f"| {result['rate']:,.0f} | {result['requests']:,} | {result['shadowed']:,.0f} "
            f"| {result['dropped']:,.0f} | {result['failed']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rates", type=float, nargs="+", default=[200.0, 1000.0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument(
        "--precedence", action="store_true", help="raise the scheduling priority (needs root)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        key = make(home)
        results = [
            measure(home, key, r, options.seconds, options.rounds, options.precedence)
            for r in options.rates
        ]
    introduction = (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} by `python -m benchmarks.shadow --rounds "
        f"{options.rounds} --seconds {options.seconds:g}{' --precedence' * options.precedence}` on "
        f"{os.cpu_count()} cores, load average "
        f"{os.getloadavg()[0]:.0f} at the end. Medians over {options.rounds} rounds, ratios "
        "computed within a round; the ratio of `off again` to `off` is the noise."
    )
    text = page(results, introduction)
    print(text)
    PAGE.write_text(text)
    PAGE.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

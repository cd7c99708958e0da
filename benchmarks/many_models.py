"""Memory, start-up time and latency of one process with up to 200 small models.

    .venv/bin/python -m benchmarks.many_models

Half of the models are a scaler with a logistic regression, half a scaler with a forest of 20
trees, on 30 numbers. Every model has its own bundle, session and buffers, although the same bundle
is installed under many names. Requests go to random models. Two lower bounds in the same run only
hold the same number of models: bare ONNX Runtime sessions and scikit-learn pipelines.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.serving.server import free_port
from benchmarks.serving.steady import requests_of, steady
from benchmarks.shadow import get, wait
from tidemill import keyring
from tidemill.bundle import Bundle
from tidemill.project import Candidate, Project, sklearn_dataset
from tidemill.serving.shelf.shelf import ShelfState, install_bundle, write_state
from tidemill.steps.data.signature_inference import infer_signature
from tidemill.steps.export.bundle_writer import BundleMetadata, HeldOutRows, export_bundle

PAGE = Path("docs/benchmarks/many-models.md")
COUNTS = (1, 50, 100, 200)
RATE, SECONDS = 200.0, 5.0
BARE = {
    "onnx": """
import sys, time, onnxruntime
began = time.perf_counter()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
cpu = ["CPUExecutionProvider"]
loaded = [onnxruntime.InferenceSession(p, options, providers=cpu) for p in sys.argv[1:]]
""",
    "sklearn": """
import pickle, sys, time
began = time.perf_counter()
loaded = [pickle.load(open(p, "rb")) for p in sys.argv[1:]]
""",
}
REPORT = """
rollup = open("/proc/self/smaps_rollup").read()
print(time.perf_counter() - began, rollup.split("Pss:")[1].split()[0])
"""


def make(folder: Path) -> tuple[list[Bundle], list[Path]]:
    """Create two bundles and return them with their source pipelines."""
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    bundles, pickles = [], []
    for estimator in (
        LogisticRegression(max_iter=1000),
        RandomForestClassifier(20, random_state=0),
    ):
        name = type(estimator).__name__
        model = make_pipeline(StandardScaler(), estimator).fit(X[:450], y[:450])
        data = sklearn_dataset("breast_cancer")
        project = Project(name, data, "target", [Candidate(name, estimator)])
        signature = infer_signature(X, y, "classification", project)
        made = folder / name
        bundles.append(
            export_bundle(
                model,
                signature,
                X[:450],
                HeldOutRows(X[450:], y[450:].to_numpy()),
                made,
                BundleMetadata(name),
            )
        )
        pickles.append(folder / f"{name}.pkl")
        pickles[-1].write_bytes(pickle.dumps(model))
    return bundles, pickles


def shelve(home: Path, bundles: list[Bundle], count: int) -> str:
    """Create a home that serves `count` models and return its API key."""
    placed = {}
    for number in range(count):
        loaded, name = bundles[number % len(bundles)], f"m{number}"
        placed[name] = install_bundle(home / "shelf", name, "1", loaded.path, loaded.digest)
    write_state(home / "shelf", ShelfState(models=placed, synced_at=time.time()))
    ring, token, _ = keyring.add(keyring.new_keyring(), ("predict",))
    keyring.save(home / "keys.json", ring)
    return token


def measure(home: Path, key: str, count: int) -> dict[str, float]:
    """Measure start-up, memory and latency with `count` models."""
    port, began = free_port(), time.perf_counter()
    command = [sys.executable, "-m", "tidemill.serving", "--home", str(home), "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--log-level", "warning"],
        env={**os.environ, "TIDEMILL_CACHE": "off", "OMP_NUM_THREADS": "1"},
    )
    try:
        wait(lambda: len(json.loads(get(port, "/ready") or b'{"models":{}}')["models"]) == count)
        started = time.perf_counter() - began
        rows = load_breast_cancer().data[:64]
        bodies = [json.dumps({"features": row.tolist()}).encode() for row in rows]
        paths = [f"/models/m{number}/predict" for number in range(count)]
        requests = requests_of(paths, bodies, key)
        steady(port, requests, rate=RATE, seconds=2.0)  # touch every buffer once
        before = cpu(process.pid)
        found = steady(port, requests, rate=RATE, seconds=SECONDS)
        used = cpu(process.pid) - before
        p50, p99 = np.quantile(found.latencies, (0.5, 0.99)) * 1000
        return {
            "models": count, "seconds": started, "pss_mb": pss(process.pid), "p50_ms": float(p50),
            "p99_ms": float(p99), "cpu_us": used / len(found.latencies) * 1e6,
            "failed": found.failed,
        }  # fmt: skip
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def cpu(pid: int) -> float:
    """Return the CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(n) for n in fields[11:13]) / os.sysconf("SC_CLK_TCK")


def pss(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.partition("\nPss:")[2].split()[0]) / 1024


def bare(kind: str, paths: list[Path]) -> dict[str, float]:
    """Measure load seconds and PSS megabytes of a process that only holds the models."""
    command = [sys.executable, "-c", BARE[kind] + REPORT, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, kilobytes = done.stdout.split()
    return {"seconds": float(seconds), "pss_mb": int(kilobytes) / 1024}


def page(
    found: list[dict[str, float]], limits: dict[str, dict[str, float]], introduction: str
) -> str:
    """Render the report."""
    one, most = found[0], found[-1]
    each = (most["pss_mb"] - one["pss_mb"]) / (most["models"] - one["models"])
    lines = [
        "# Many models in one process", "", introduction, "",
        "![Memory and latency](many-models.png)", "",
        "| models | start to all ready, s | PSS, MB | p50, ms | p99, ms | CPU, us per request |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    lines += [
        f"| {row['models']:.0f} | {row['seconds']:.1f} | {row['pss_mb']:.0f} | {row['p50_ms']:.2f} "
        f"| {row['p99_ms']:.2f} | {row['cpu_us']:.0f} |"
        for row in found
    ]
    count = f"{most['models']:.0f}"
    lines += ["", f"| lower bound: a process that only holds {count} models | load, s | PSS, MB |"]
    lines += ["| --- | ---: | ---: |"]
    names = {"onnx": "ONNX Runtime sessions", "sklearn": "scikit-learn pipelines"}
    lines += [f"| {names[k]} | {v['seconds']:.1f} | {v['pss_mb']:.0f} |" for k, v in limits.items()]
    ratio = {k: most["pss_mb"] / v["pss_mb"] for k, v in limits.items()}
    lines += [
        "",
        f"Each model takes {each * 1024:.0f} kB. {count} served models take {ratio['onnx']:.2f}x "
        f"the memory of the bare sessions and {ratio['sklearn']:.2f}x that of the bare pipelines. "
        f"The median latency with {count} models is {most['p50_ms'] / one['p50_ms']:.2f}x that "
        f"with one model, the CPU time per request {most['cpu_us'] / one['cpu_us']:.2f}x.",
    ]
    return "\n".join(lines) + "\n"


def draw(found: list[dict[str, float]]) -> None:
    from tidemill.steps.plots import style

    figure, (left, right) = style.new_figure("", 9, 3.2, columns=2)
    counts = [row["models"] for row in found]
    left.plot(counts, [row["pss_mb"] for row in found], **style.series(0))
    left.set(xlabel="models", ylabel="PSS, MB", ylim=0)
    for number, (name, label) in enumerate((("p50_ms", "p50"), ("p99_ms", "p99"))):
        right.plot(counts, [row[name] for row in found], label=label, **style.series(number))
    right.set(xlabel="models", ylabel="latency, ms", ylim=0)
    style.legend(right)
    PAGE.with_suffix(".png").write_bytes(style.to_png(figure))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bundles, pickles = make(folder)
        keys = {count: shelve(folder / str(count), bundles, count) for count in COUNTS}
        rounds = [
            [measure(folder / str(count), keys[count], count) for count in COUNTS]
            for _ in range(options.rounds)
        ]
        most = COUNTS[-1]
        paths = {"onnx": [b.model_path for b in bundles], "sklearn": pickles}
        limits = {kind: bare(kind, some * (most // 2)) for kind, some in paths.items()}
    found = [
        {name: statistics.median(rows[i][name] for rows in rounds) for name in rounds[0][i]}
        for i in range(len(COUNTS))
    ]
    introduction = (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} by `python -m benchmarks.many_models --rounds "
        f"{options.rounds}` on {os.cpu_count()} cores, load average {os.getloadavg()[0]:.0f} at "
        f"the end. Medians over {options.rounds} rounds; {RATE:.0f} requests per second over 16 "
        "connections, each to a random model; half of the models are logistic regressions, half "
        "are forests of 20 trees."
    )
    text = page(found, limits, introduction)
    print(text)
    PAGE.write_text(text)
    draw(found)
    result = {"served": found, "limits": limits}
    PAGE.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""The streams: river's generators, cached as CSV files, and two with a wandering level."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.drift.peers import peer
from benchmarks.retraining.simulate import Stream

HERE = Path(__file__).parent
CACHE = HERE.parent.parent / ".bench" / "retraining" / "streams"
ROWS = 20_000
REGRESSION = "friedman"

NAMES = (
    "abrupt-agrawal", "abrupt-friedman", "abrupt-sea", "abrupt-stagger",
    "gradual-agrawal", "gradual-friedman", "gradual-hyperplane", "gradual-sea",
    "recurring-agrawal", "recurring-friedman", "recurring-stagger",
    "covariate-friedman", "covariate-hyperplane", "covariate-sea",
    "none-agrawal", "none-friedman", "none-rbf", "none-sea",
    "wobble-class", "wobble-value",
)  # fmt: skip


def make_streams(seeds: list[int]) -> None:
    """Write the streams of these seeds that do not exist yet.

    Raises:
        RuntimeError: river cannot be installed.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    river = peer("river")
    if river.python is None:
        raise RuntimeError(f"river cannot be installed: {river.why}")
    command = [str(river.python), str(HERE / "river_worker.py"), str(CACHE), str(ROWS)]
    subprocess.run([*command, *map(str, seeds)], check=True)


def stream(name: str, seed: int) -> Stream:
    """Return one stream as arrays."""
    if name.startswith("wobble"):
        return _wobble(name, seed)
    frame = pd.read_csv(CACHE / f"{name}-{seed}.csv")
    y = frame.pop("target").to_numpy()
    task = "regression" if REGRESSION in name else "classification"
    return Stream(name, task, frame.to_numpy(dtype=float), y)


def _wobble(name: str, seed: int) -> Stream:
    """Generate a constant relation plus a level that wanders for about a hundred rows and returns.

    At any moment this looks like a change, but there is none."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(ROWS, 5))
    X[:, :2] = _autoregressive(X[:, :2], 0.95)
    level = _autoregressive(random.normal(size=(ROWS, 1)), 0.99)[:, 0]
    z = X @ np.array([1.0, 0.7, -0.5, 0.3, 0.0]) + 0.8 * level + 0.5 * random.normal(size=ROWS)
    if name == "wobble-class":
        return Stream(name, "classification", X, (z > 0).astype(int))
    return Stream(name, "regression", X, z)


def _autoregressive(noise: np.ndarray, memory: float) -> np.ndarray:
    found = noise.copy()
    for row in range(1, len(noise)):
        found[row] = memory * found[row - 1] + np.sqrt(1 - memory**2) * noise[row]
    return found

"""Duration of a drift check and size of a profile."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from benchmarks.drift.alarms import Say
from benchmarks.drift.profiles import profile_of
from tidemill.steps.drift.check import check_drift

SIZES = ((500, 10), (10_000, 30), (1_000_000, 30))


def speed(say: Say, sizes: tuple[tuple[int, int], ...] = SIZES) -> list[dict[str, Any]]:
    """Measure the wall and CPU seconds per check of an in-memory window, best of three."""
    found = []
    for rows, columns in sizes:
        random = np.random.default_rng(rows)
        profile = _profile(columns, random)
        window = _frame(rows, columns, random)
        seconds, cpu = min(_time(profile, window) for _ in range(3))
        say(f"{rows:,} rows x {columns} features: {seconds:.2f} s, {cpu:.2f} s of CPU")
        found.append({"rows": rows, "features": columns, "seconds": seconds, "cpu": cpu})
    return found


def profile_sizes(columns: tuple[int, ...] = (10, 100)) -> list[dict[str, int]]:
    """Return the JSON size in bytes of profiles of 100,000 rows."""
    random = np.random.default_rng(0)
    return [
        {"features": width, "bytes": len(msgspec.json.encode(_profile(width, random)))}
        for width in columns
    ]


class _First:
    """A model that predicts the first feature."""

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return frame.iloc[:, 0].to_numpy()


def _profile(columns: int, random: np.random.Generator) -> dict[str, Any]:
    return profile_of(_frame(100_000, columns, random), _First(), _frame(1000, columns, random))


def _frame(rows: int, columns: int, random: np.random.Generator) -> pd.DataFrame:
    names = [f"x{i}" for i in range(columns)]
    return pd.DataFrame(random.standard_normal((rows, columns)), columns=names)


def _time(profile: dict[str, Any], window: pd.DataFrame) -> tuple[float, float]:
    """Return wall and CPU seconds, which differ widely on a shared machine."""
    started, cpu = time.perf_counter(), time.process_time()
    check_drift(profile, window)
    return time.perf_counter() - started, time.process_time() - cpu

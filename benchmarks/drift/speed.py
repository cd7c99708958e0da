"""How long a check takes, and how large a profile is."""

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
    """Seconds a check, the best of three, with its CPU; the window in memory as a frame."""
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
    """Bytes of profiles of 100,000 rows, as JSON."""
    random = np.random.default_rng(0)
    return [
        {"features": width, "bytes": len(msgspec.json.encode(_profile(width, random)))}
        for width in columns
    ]


class _First:
    """A model that answers with the first feature."""

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return frame.iloc[:, 0].to_numpy()


def _profile(columns: int, random: np.random.Generator) -> dict[str, Any]:
    return profile_of(_frame(100_000, columns, random), _First(), _frame(1000, columns, random))


def _frame(rows: int, columns: int, random: np.random.Generator) -> pd.DataFrame:
    names = [f"x{i}" for i in range(columns)]
    return pd.DataFrame(random.standard_normal((rows, columns)), columns=names)


def _time(profile: dict[str, Any], window: pd.DataFrame) -> tuple[float, float]:
    """Seconds of the clock, and of the CPU: on a shared machine the two are far apart."""
    started, cpu = time.perf_counter(), time.process_time()
    check_drift(profile, window)
    return time.perf_counter() - started, time.process_time() - cpu

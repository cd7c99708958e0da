"""Power: how often a real change raises an alarm, by kind and size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge

from benchmarks.drift import methods
from benchmarks.drift.alarms import OURS, Say, evidently, interval
from benchmarks.drift.data import Situation, Table, answer, situation, ten_features
from benchmarks.drift.profiles import profile_of

SHIFTS = (0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
TRAINING_ROWS = 10_000

Draw = Callable[[int, int], Situation]  # rows of the window and seed, to a clean situation
Change = Callable[[pd.DataFrame, pd.DataFrame, np.random.Generator], pd.DataFrame]


def populations(tables: list[Table]) -> dict[str, Draw]:
    """Return the populations to draw windows from: ten normal features, and the gallery."""

    def gallery(table: Table) -> Draw:
        return lambda rows, seed: situation(table, rows, seed)

    drawn: dict[str, Draw] = {
        "ten independent features": lambda rows, seed: _ten(rows, seed, 0.0),
        "ten correlated features": lambda rows, seed: _ten(rows, seed, 0.5),
    }
    return drawn | {table.name: gallery(table) for table in tables}


def shift_power(
    name: str, draw: Draw, rows: int, windows: int, say: Say, *, for_evidently: int = 0
) -> dict[str, Any]:
    """Measure the share of windows that alarm, by shift of one feature in standard deviations.

    The first `for_evidently` windows of each size also go to Evidently.
    """
    curves: dict[str, list[dict[str, float]]] = {}
    for size in SHIFTS:
        found = _share(draw, rows, windows, _shift(size), for_evidently)
        for method, share in found.items():
            curves.setdefault(method, []).append(share)
        if size == 0.25:
            text = ", ".join(f"{m} {s['rate']:.1%}" for m, s in found.items())
            say(f"{name}, shift of 0.25: {text}")
    return {"population": name, "rows": rows, "windows": windows, "shifts": SHIFTS, **_in(curves)}


def other_changes(rows: int, windows: int, say: Say) -> list[dict[str, Any]]:
    """Measure the share of windows that alarm for other changes, on ten correlated features."""
    found = []
    for name, change in CHANGES.items():
        share = _share(lambda r, s: _ten(r, s, 0.5), rows, windows, change)
        say(f"{name}: " + ", ".join(f"{m} {v['rate']:.1%}" for m, v in share.items()))
        found.append({"change": name, "rows": rows, "windows": windows, **_in(share)})
    return found


def _in(alarms: Any) -> dict[str, Any]:
    return {"alarms": alarms}


def _share(
    draw: Draw, rows: int, windows: int, change: Change, for_evidently: int = 0
) -> dict[str, dict[str, float]]:
    counts: Counter[str] = Counter()
    first: list[Situation] = []
    for seed in range(windows):
        clean = draw(rows, 100_000 + seed)
        random = np.random.default_rng(200_000 + seed)
        changed = clean.with_window(change(clean.train, clean.window.copy(), random))
        counts[OURS] += methods.tidemill(changed).moved
        for name, method in methods.PEERS.items():
            counts[name] += method(changed)
        if len(first) < for_evidently:
            first.append(changed)
    found = {name: interval(counts[name], windows) for name in (OURS, *methods.PEERS)}
    return found | (evidently(first) if first else {})


def _ten(rows: int, seed: int, correlation: float) -> Situation:
    random = np.random.default_rng(seed)
    train = ten_features(TRAINING_ROWS, random, correlation)
    test = ten_features(TRAINING_ROWS // 4, random, correlation)
    window = ten_features(rows, random, correlation)
    target = train.sum(axis=1) + random.standard_normal(TRAINING_ROWS)
    model = Ridge().fit(train, target)
    profile = profile_of(train, model, test)
    return Situation(train, profile, model, window, np.zeros(rows), answer(model, window)[0])


def _shift(size: float) -> Change:
    """Shift one random feature up or down by `size` standard deviations."""

    def change(
        train: pd.DataFrame, window: pd.DataFrame, random: np.random.Generator
    ) -> pd.DataFrame:
        spread = train.std()
        column = random.choice(spread.index[spread > 0])
        window[column] += size * float(spread[column]) * random.choice([-1.0, 1.0])
        return window

    return change


def _wider(train: pd.DataFrame, window: pd.DataFrame, random: np.random.Generator) -> pd.DataFrame:
    window["x0"] = window["x0"] * 1.3
    return window


def _gaps(share: float) -> Change:
    def change(
        train: pd.DataFrame, window: pd.DataFrame, random: np.random.Generator
    ) -> pd.DataFrame:
        window["x0"] = window["x0"].where(random.random(len(window)) >= share)
        return window

    return change


def _shuffled(
    train: pd.DataFrame, window: pd.DataFrame, random: np.random.Generator
) -> pd.DataFrame:
    window["x0"] = random.permutation(window["x0"].to_numpy())
    return window


def _beyond(train: pd.DataFrame, window: pd.DataFrame, random: np.random.Generator) -> pd.DataFrame:
    broken = random.random(len(window)) < 0.02
    window["x0"] = window["x0"].mask(broken, 100.0)
    return window


def _everywhere(
    train: pd.DataFrame, window: pd.DataFrame, random: np.random.Generator
) -> pd.DataFrame:
    return window + 0.1 * random.choice([-1.0, 1.0], window.shape[1])


CHANGES: dict[str, Change] = {
    "standard deviation of one feature times 1.3": _wider,
    "one feature loses its correlation with the others": _shuffled,
    "every feature shifts by 0.1 standard deviations, up or down": _everywhere,
    "2% of one feature out of range": _beyond,
    "2% of one feature missing": _gaps(0.02),
}

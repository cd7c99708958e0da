"""False alarm rates on unchanged windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from scipy import stats

from benchmarks.drift import methods, peers
from benchmarks.drift.data import Situation, Table, situation

OURS = "Tidemill"
#: Evidently takes a hundred times as long per window, so it gets fewer.
EVIDENTLY_WINDOWS = 100

Say = Callable[[str], None]


def false_alarms(
    tables: list[Table], rows: int, windows: int, say: Say, *, repeats: bool = False
) -> list[dict[str, Any]]:
    """Measure the share of clean windows that alarm, by table and method."""
    return [_table(table, rows, windows, say, repeats) for table in tables]


def _table(table: Table, rows: int, windows: int, say: Say, repeats: bool) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    culprits: Counter[str] = Counter()
    used = 0
    first: list[Situation] = []
    for clean in clean_situations(table, rows, windows, repeats=repeats):
        report = methods.tidemill(clean)
        counts[OURS] += report.moved
        culprits.update(_culprits(report))
        for name, method in methods.PEERS.items():
            counts[name] += method(clean)
        used = report.rows
        if len(first) < EVIDENTLY_WINDOWS:
            first.append(clean)
    found = {name: interval(counts[name], windows) for name in (OURS, *methods.PEERS)}
    found |= evidently(first)
    say(
        f"{table.name}, {used} rows: " + ", ".join(f"{n} {s['rate']:.1%}" for n, s in found.items())
    )
    return {
        "table": table.name,
        "features": table.frame.shape[1],
        "rows": used,
        "windows": windows,
        "repeats": repeats,
        "alarms": found,
        "culprits": dict(culprits),
    }


def evidently(situations: list[Situation]) -> dict[str, dict[str, float]]:
    """Return the share of windows that alarm with Evidently; empty if it is not installed."""
    counts = peers.evidently(situations) or {}
    return {name: interval(count, len(situations)) for name, count in counts.items()}


def clean_situations(
    table: Table, rows: int, windows: int, *, repeats: bool = False
) -> Iterator[Situation]:
    """Yield clean situations, reproducible across calls."""
    for seed in range(windows):
        yield situation(table, rows, seed, repeats=repeats)


def interval(hits: int, of: int) -> dict[str, float]:
    """Return a share with its 95% confidence interval (Clopper-Pearson)."""
    bounds = stats.binomtest(hits, of).proportion_ci(0.95)
    return {"windows": of, "rate": hits / of, "low": float(bounds.low), "high": float(bounds.high)}


def _culprits(report: Any) -> list[str]:
    named = [f"{f.name}: {f.test}" for f in report.features if f.drifted]
    if report.output is not None and report.output.drifted:
        named.append("output")
    if report.confidence is not None and report.confidence.drifted:
        named.append("confidence")
    if report.multivariate is not None and report.multivariate.moved:
        named.append("classifier")
    return named

"""Detectors on streams of losses: false alarm rates and detection delays.

Each stream resamples the losses of a gallery model on unseen rows. In the second half, wrong
predictions are added at a rate of 10% (for regression, errors grow by a quarter).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.drift import peers
from benchmarks.drift.alarms import Say
from benchmarks.drift.data import Table, situation
from tidemill.steps.decay.holdout import read_holdout, row_losses
from tidemill.steps.decay.loss_detector import loss_detector

ROWS = 10_000


def detectors(tables: list[Table], streams: int, say: Say) -> list[dict[str, Any]]:
    """Measure false alarms in the unchanged half and detection delays in the changed half."""
    found = []
    for table in tables:
        drawn = [_stream(table, seed) for seed in range(streams)]
        alarms = {
            "Tidemill: Page-Hinkley": [_page_hinkley(*stream) for stream in drawn],
            **peers.river([losses for losses, _ in drawn]),
        }
        for name, rows in alarms.items():
            found.append({"table": table.name, "detector": name, **_summary(rows)})
            say(f"{table.name}, {name}: {found[-1]}")
    return found


def _stream(table: Table, seed: int) -> tuple[np.ndarray, Any]:
    clean = situation(table, 10**9, 600_000 + seed, holdout=True)
    holdout = read_holdout(clean.profile)
    assert holdout is not None
    losses = row_losses(holdout.task, clean.truth, clean.outputs)
    random = np.random.default_rng(seed)
    calm, changed = random.choice(losses, ROWS // 2), random.choice(losses, ROWS // 2)
    if holdout.task == "classification":
        changed = np.maximum(changed, random.random(changed.size) < 0.1)
    else:
        changed = changed * 1.25
    return np.concatenate([calm, changed]), holdout


def _page_hinkley(losses: np.ndarray, holdout: Any) -> list[int]:
    detector = loss_detector(holdout)
    alarms, start = [], 0
    while start < losses.size and detector.update(losses[start:]):
        start = detector.rows
        alarms.append(start)
        detector.reset()
    return alarms


def _summary(alarms: list[list[int]]) -> dict[str, Any]:
    """Summarize the rows at which each stream alarmed."""
    half = ROWS // 2
    early = sum(1 for rows in alarms for row in rows if row <= half)
    delays = [min((row - half for row in rows if row > half), default=None) for rows in alarms]
    noticed = [delay for delay in delays if delay is not None]
    return {
        "streams": len(alarms),
        "calm_rows": half * len(alarms),
        "false_alarms": early,
        "noticed": len(noticed),
        "median_delay": float(np.median(noticed)) if noticed else None,
    }

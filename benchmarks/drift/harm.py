"""How well labels, confidences and drift detect a degraded model, on the gallery.

Covers labelled windows of an unchanged model, windows with a known share of corrupted labels, and
four kinds of change, each with the report of every check.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.drift import methods
from benchmarks.drift.alarms import Say, interval
from benchmarks.drift.data import Situation, Table, answer, situation
from tidemill.steps.decay.cbpe import AccuracyEstimate, estimate_accuracy
from tidemill.steps.decay.check import DecayReport, assess, check_decay
from tidemill.steps.decay.holdout import read_holdout

LABELLED = 300
SPOILED = (0.05, 0.1, 0.2)
HARDER = "harder rows become more frequent"

Change = Callable[[Situation, np.random.Generator], Situation]


def decay_alarms(tables: list[Table], windows: int, say: Say) -> list[dict[str, Any]]:
    """Measure how often unchanged and corrupted labelled windows are reported as degraded."""
    found = []
    for table in tables:
        counts: Counter[float] = Counter()
        for seed in range(windows):
            clean = situation(table, LABELLED, 300_000 + seed, holdout=True)
            random = np.random.default_rng(seed)
            counts[0.0] += decay(clean).degraded
            for share in SPOILED:
                counts[share] += decay(
                    replace(clean, truth=_corrupt(clean, share, random))
                ).degraded
        row = {
            "table": table.name,
            "metric": metric_of(clean),
            "rows": len(clean.truth),
            "windows": windows,
            "hurt": {str(share): interval(counts[share], windows) for share in (0.0, *SPOILED)},
        }
        say(f"{table.name}: degraded {counts[0.0]}/{windows} clean, {counts[0.1]}/{windows} at 10%")
        found.append(row)
    return found


def verdicts(tables: list[Table], windows: int, say: Say) -> list[dict[str, Any]]:
    """Count the reported states for each kind of change, with and without labels."""
    found = []
    for table in tables:
        for name, change in CHANGES.items():
            if name == HARDER and not table.classes:
                continue
            with_labels: Counter[str] = Counter()
            without: Counter[str] = Counter()
            for seed in range(windows):
                random = np.random.default_rng(seed)
                clean = situation(table, 500, 400_000 + seed, holdout=True)
                changed = change(clean, random)
                drift, estimate = methods.tidemill(changed), estimated(changed)
                with_labels[assess(drift, decay(changed)).state] += 1
                without[assess(drift, None, estimate).state] += 1
            say(f"{table.name}, {name}: {dict(with_labels)}; without labels {dict(without)}")
            found.append(
                {
                    "table": table.name,
                    "change": name,
                    "windows": windows,
                    "labels": dict(with_labels),
                    "confidences": dict(without),
                }
            )
    return found


def estimates(tables: list[Table], windows: int, say: Say) -> list[dict[str, Any]]:
    """Measure the error of the estimated accuracy on clean and on tilted windows."""
    found = []
    for table in (table for table in tables if table.classes):
        for name, change in (("clean", _nothing), ("tilted", _tilted)):
            rows = [_estimate(table, change, seed) for seed in range(windows)]
            ours, raw, holdout, inside, alarm = np.array(rows).T
            row = {
                "table": table.name,
                "window": name,
                "windows": windows,
                "calibrated": float(np.abs(ours).mean()),
                "raw": float(np.abs(raw).mean()),
                "held_out": float(np.abs(holdout).mean()),
                "inside": float(inside.mean()),
                "hurt": float(alarm.mean()),
            }
            say(f"{table.name}, {name}: error {row['calibrated']:.4f}, raw {row['raw']:.4f}")
            found.append(row)
    return found


def decay(situation: Situation) -> DecayReport:
    """Run the decay check on a labelled window with the default policy."""
    holdout = read_holdout(situation.profile)
    assert holdout is not None
    metric = metric_of(situation)
    return check_decay(holdout.metrics[metric], situation.truth, situation.outputs, metric=metric)


def metric_of(situation: Situation) -> str:
    return "f1_score" if situation.confidence is not None else "rmse"


def estimated(situation: Situation) -> AccuracyEstimate | None:
    """Estimate a classifier's accuracy from its confidences; None for a regressor."""
    holdout = read_holdout(situation.profile)
    if situation.confidence is None or holdout is None or holdout.calibration is None:
        return None
    return estimate_accuracy(holdout.calibration, situation.confidence)


def _estimate(table: Table, change: Change, seed: int) -> tuple[float, ...]:
    changed = change(
        situation(table, LABELLED, 500_000 + seed, holdout=True), np.random.default_rng(seed)
    )
    true = float(np.mean(changed.truth == changed.outputs))
    estimate = estimated(changed)
    assert estimate is not None
    assert changed.confidence is not None
    return (
        estimate.value - true,
        float(changed.confidence.mean()) - true,
        estimate.reference - true,
        float(estimate.low <= true <= estimate.high),
        float(estimate.degraded),
    )


def _corrupt(clean: Situation, share: float, random: np.random.Generator) -> np.ndarray:
    """Change the class of a share of the labels; for regression, add noise to the targets.

    The noise has `4 * share` times the variance of the model's error.
    """
    if clean.confidence is None:
        error = clean.truth - clean.outputs
        noise = random.standard_normal(len(error)) * np.sqrt(4 * share) * error.std()
        return clean.truth + noise
    classes = np.unique(clean.truth)
    other = classes[(np.searchsorted(classes, clean.truth) + 1) % len(classes)]
    return np.where(random.random(len(other)) < share, other, clean.truth)


def _nothing(clean: Situation, random: np.random.Generator) -> Situation:
    return clean


def _harmless(clean: Situation, random: np.random.Generator) -> Situation:
    """Shift the feature with the least influence by half a standard deviation."""
    return _moved(clean, _influence(clean)[0], 0.5)


def _harmful(clean: Situation, random: np.random.Generator) -> Situation:
    """Shift the features with the most influence by two standard deviations."""
    order = _influence(clean)
    return _moved(clean, order[-max(1, len(order) // 5) :], 2.0)


def _harder(clean: Situation, random: np.random.Generator) -> Situation:
    """Sample rows with low confidence four times as often as others."""
    assert clean.confidence is not None
    unsure = clean.confidence <= np.quantile(clean.confidence, 0.25)
    weight = np.where(unsure, 4.0, 1.0)
    chosen = random.choice(len(weight), len(weight), p=weight / weight.sum())
    window = clean.window.iloc[chosen].reset_index(drop=True)
    return replace(clean.with_window(window), truth=clean.truth[chosen])


def _relabelled(clean: Situation, random: np.random.Generator) -> Situation:
    """Change the labels of a fifth of the rows (concept drift)."""
    return replace(clean, truth=_corrupt(clean, 0.2, random))


def _tilted(clean: Situation, random: np.random.Generator) -> Situation:
    """Oversample rows with high values of one feature."""
    column = random.choice(clean.window.columns[clean.train.std() > 0])
    spread = float(clean.train[column].std())
    z = (clean.window[column].to_numpy() - float(clean.train[column].mean())) / spread
    weight = np.exp(np.clip(random.choice([-1.0, 1.0]) * z, -3, 3))
    chosen = random.choice(len(z), len(z), p=weight / weight.sum())
    window = clean.window.iloc[chosen].reset_index(drop=True)
    return replace(clean.with_window(window), truth=clean.truth[chosen])


def _moved(clean: Situation, columns: Any, size: float) -> Situation:
    window = clean.window.copy()
    window[columns] = window[columns] + size * clean.train[columns].std()
    return clean.with_window(window)


def _influence(clean: Situation) -> list[str]:
    """Rank the varying features by the number of predictions a shift of one SD changes."""
    spread = clean.train.std()
    varied = [name for name in clean.train.columns if spread[name] > 0]
    frame = clean.train.iloc[:200]
    before = _scores(clean, frame)
    effect = {}
    for name in varied:
        moved = frame.copy()
        moved[name] = moved[name] + spread[name]
        effect[name] = float(np.abs(_scores(clean, moved) - before).mean())
    return sorted(varied, key=lambda name: effect[name])


def _scores(clean: Situation, frame: Any) -> np.ndarray:
    if hasattr(clean.model, "predict_proba"):
        return np.asarray(clean.model.predict_proba(frame))
    return np.asarray(answer(clean.model, frame)[0])


CHANGES: dict[str, Change] = {
    "nothing changes": _nothing,
    "an unimportant feature shifts": _harmless,
    "important features are mismeasured": _harmful,
    HARDER: _harder,
    "labels change for the same inputs": _relabelled,
}

"""Scores of predictions on test rows, with bootstrap intervals and paired differences.

Binary tasks are scored by the area under the ROC curve, multiclass ones by the accuracy, and
regression by R2: higher is better for all. Rows that a tool refused count as its worst answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score

Array = npt.NDArray[Any]
SAMPLES = 500
METRIC = {"binary": "ROC AUC", "multiclass": "accuracy", "regression": "R2"}


@dataclass(frozen=True)
class Scored:
    """A tool's predictions for the test rows: a number, or a label."""

    task: str
    truth: Array
    predicted: Array

    def value(self, rows: Array | None = None) -> float:
        chosen = slice(None) if rows is None else rows
        truth, predicted = self.truth[chosen], self.predicted[chosen]
        if self.task == "regression":
            return float(r2_score(truth, predicted))
        if self.task == "multiclass":
            return float(accuracy_score(truth, predicted))
        if len(set(truth)) < 2:
            return float("nan")
        return float(roc_auc_score(truth, predicted))


def load(facts: dict[str, Any], folder: Path, tool: str) -> Scored:
    """Read a tool's predictions: column `prediction`, for binary tasks `positive`'s probability.

    The positive class is the last one in sorted order.
    """
    frame = pd.read_csv(folder / tool / "predictions.csv", dtype=str, keep_default_na=False)
    truth = pd.read_csv(folder / "truth.csv", dtype=str, keep_default_na=False).iloc[:, 0]
    if len(frame) != len(truth):
        raise ValueError(f"{tool} predicted {len(frame)} of {len(truth)} rows.")
    column = "positive" if facts["task"] == "binary" else "prediction"
    given = frame[column]
    if facts["task"] == "multiclass":
        return Scored("multiclass", _labels(truth), _labels(given))
    numbers = pd.to_numeric(given, errors="coerce")
    if facts["task"] == "binary":
        answers = (truth == facts["classes"][-1]).to_numpy(int)
        worst = pd.Series(1.0 - answers, index=numbers.index)
        return Scored("binary", answers, numbers.fillna(worst).to_numpy(float))
    values = pd.to_numeric(truth)
    worst = pd.Series(np.where(values > values.mean(), values.min(), values.max()))
    return Scored("regression", values.to_numpy(float), numbers.fillna(worst).to_numpy(float))


def _labels(texts: pd.Series[str]) -> Array:
    """Labels in one spelling: 1, 1.0 and " 1" are the same class."""
    numbers = pd.to_numeric(texts, errors="coerce")
    return np.asarray(numbers.map("{:g}".format).where(numbers.notna(), texts.str.strip()))


def interval(scored: Scored, seed: int = 0) -> tuple[float, float]:
    """The central 95% of the score over bootstrap samples of the test rows."""
    return _central([scored.value(rows) for rows in _samples(len(scored.truth), seed)])


def difference(ours: Scored, theirs: Scored, seed: int = 0) -> tuple[float, float, float]:
    """Our score minus theirs, with its 95% interval over the same bootstrap samples."""
    samples = _samples(len(ours.truth), seed)
    low, high = _central([ours.value(rows) - theirs.value(rows) for rows in samples])
    return ours.value() - theirs.value(), low, high


def _samples(rows: int, seed: int) -> list[Array]:
    random = np.random.default_rng(seed)
    return [random.integers(0, rows, rows) for _ in range(SAMPLES)]


def _central(values: list[float]) -> tuple[float, float]:
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)

"""The gallery's tables, split into training rows, held-out rows and a window.

Every situation is a new random split: half of the rows train and test a model, and the window is
drawn from the other half. A clean window therefore differs from the training rows by chance alone,
including the randomness of the split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.drift.profiles import profile_of

Window = Callable[[np.random.Generator, int, int], Any]


@dataclass(frozen=True)
class Table:
    """A data set with a simple model."""

    name: str
    frame: pd.DataFrame
    target: np.ndarray
    model: Callable[[], Any]

    @property
    def classes(self) -> bool:
        return self.target.dtype.kind != "f"


@dataclass(frozen=True)
class Situation:
    """A model with its profile and a window of inputs.

    `outputs` are None if the window has no predictions.
    """

    train: pd.DataFrame
    profile: dict[str, Any]
    model: Any
    window: pd.DataFrame
    truth: np.ndarray
    outputs: np.ndarray | None = None
    confidence: np.ndarray | None = None

    def with_window(self, window: pd.DataFrame) -> Situation:
        """Return a copy with another window and the model's predictions for it."""
        outputs, confidence = answer(self.model, window) if self.model else (None, None)
        return replace(self, window=window, outputs=outputs, confidence=confidence)


def tables() -> list[Table]:
    """Load the gallery's tables."""

    def logistic() -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))

    return [
        _table("breast_cancer", datasets.load_breast_cancer, logistic),
        _table("wine", datasets.load_wine, logistic),
        _table("iris", datasets.load_iris, logistic),
        _table(
            "california_housing",
            datasets.fetch_california_housing,
            lambda: make_pipeline(StandardScaler(), Ridge()),
        ),
        _table("digits", datasets.load_digits, _digits),
    ]


def _digits() -> Any:
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1)


def _table(name: str, load: Callable[..., Any], model: Callable[[], Any]) -> Table:
    loaded = load(as_frame=True)
    return Table(name, loaded.data.astype(np.float64), loaded.target.to_numpy(), model)


def situation(
    table: Table, rows: int, seed: int, *, repeats: bool = False, holdout: bool = False
) -> Situation:
    """Draw a clean situation: a new split, a new model, an unchanged window.

    Args:
        rows: Size of the window; smaller if half the table has fewer rows.
        seed: Fixes the split, the model and the window.
        repeats: Draw `rows` with replacement from the other half, whatever its size.
        holdout: Whether the profile describes the model's held-out rows, as decay needs.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(table.frame))
    half = len(order) // 2
    cut = int(half * 0.8)
    train, test, rest = order[:cut], order[cut:half], order[half:]
    if repeats:
        chosen = random.choice(rest, rows)
    else:
        chosen = rest[:rows]
    model = table.model().fit(table.frame.iloc[train], table.target[train])
    truth = table.target[test] if holdout else None
    profile = profile_of(table.frame.iloc[train], model, table.frame.iloc[test], truth)
    window = table.frame.iloc[chosen].reset_index(drop=True)
    outputs, confidence = answer(model, window)
    return Situation(
        table.frame.iloc[train].reset_index(drop=True),
        profile,
        model,
        window,
        table.target[chosen],
        outputs,
        confidence,
    )


def answer(model: Any, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the model's predictions and, for a classifier, its confidences."""
    frame = frame.fillna(frame.mean())  # as a pipeline's imputation does
    if not hasattr(model, "predict_proba"):
        return model.predict(frame), None
    probabilities = model.predict_proba(frame)
    return model.classes_[probabilities.argmax(axis=1)], probabilities.max(axis=1)


def ten_features(rows: int, random: np.random.Generator, correlation: float = 0.0) -> pd.DataFrame:
    """Draw ten normal features with the same correlation for each pair."""
    shared = np.sqrt(correlation) * random.standard_normal((rows, 1))
    own = np.sqrt(1 - correlation) * random.standard_normal((rows, 10))
    return pd.DataFrame(shared + own, columns=[f"x{i}" for i in range(10)])

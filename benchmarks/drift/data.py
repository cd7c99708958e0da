"""The gallery's tables, and how a model in service meets them: train, hold out, then a window.

Every situation is drawn afresh: rows are shuffled, half of them train and test a model, and the
window comes from the other half. So a clean window differs from the training rows by chance alone,
and what chance does includes the luck of the split.
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
    """A data set with a quick model for it."""

    name: str
    frame: pd.DataFrame
    target: np.ndarray
    model: Callable[[], Any]

    @property
    def classes(self) -> bool:
        return self.target.dtype.kind != "f"


@dataclass(frozen=True)
class Situation:
    """A model with its profile, and a window of what it was asked.

    `outputs` are None when the window was changed by hand and nobody asked the model.
    """

    train: pd.DataFrame
    profile: dict[str, Any]
    model: Any
    window: pd.DataFrame
    truth: np.ndarray
    outputs: np.ndarray | None = None
    confidence: np.ndarray | None = None

    def with_window(self, window: pd.DataFrame) -> Situation:
        """The same model, asked other rows."""
        outputs, confidence = answer(self.model, window) if self.model else (None, None)
        return replace(self, window=window, outputs=outputs, confidence=confidence)


def tables() -> list[Table]:
    """The gallery."""

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
    """A clean situation: a fresh split, a fresh model, an unchanged window.

    Args:
        rows: Of the window; fewer when half the table has fewer.
        seed: Fixes the split, the model and the window.
        repeats: Draw `rows` with replacement from the other half, however small it is.
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
    """What the model says, and how sure it is."""
    frame = frame.fillna(frame.mean())  # what a pipeline's imputation does
    if not hasattr(model, "predict_proba"):
        return model.predict(frame), None
    chances = model.predict_proba(frame)
    return model.classes_[chances.argmax(axis=1)], chances.max(axis=1)


def ten_features(rows: int, random: np.random.Generator, correlation: float = 0.0) -> pd.DataFrame:
    """Ten normal features, each pair with the same correlation."""
    shared = np.sqrt(correlation) * random.standard_normal((rows, 1))
    own = np.sqrt(1 - correlation) * random.standard_normal((rows, 10))
    return pd.DataFrame(shared + own, columns=[f"x{i}" for i in range(10)])

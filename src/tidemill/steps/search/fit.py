"""Fitting and predicting with fixed random seeds and collected warnings."""

from __future__ import annotations

import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Inputs = pd.DataFrame | npt.NDArray[np.float32]


@dataclass(frozen=True)
class FitResult:
    """A fitted model, the seconds that fitting took, and the warnings it raised."""

    model: Any
    seconds: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class PredictResult:
    """Predictions: values [rows], and probabilities [rows, labels] or None."""

    values: npt.NDArray[Any]
    probabilities: npt.NDArray[np.float64] | None
    warnings: tuple[str, ...]


def fit(model: Any, X: Inputs, y: npt.NDArray[Any], *, seed: int) -> FitResult:
    """Fit an unfitted scikit-learn pipeline on inputs X [rows, ...] and targets y [rows].

    Exceptions of the model are not caught; its warnings are collected instead of printed.
    """
    fix_randomness(model, seed)
    started = time.perf_counter()
    with collected_warnings() as collected:
        fitted = model.fit(X, y)
    return FitResult(fitted, time.perf_counter() - started, tuple(collected))


def predict(model: Any, X: Inputs) -> PredictResult:
    """Predict with a fitted model for X [rows, ...].

    Raises:
        ValueError: The predictions contain NaN or infinite values.
    """
    with collected_warnings() as collected:
        values = np.asarray(model.predict(X)).reshape(len(X))
        probabilities = _probabilities(model, X)
    for what, numbers in (("predictions", values), ("probabilities", probabilities)):
        if numbers is not None and numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            raise ValueError(f"The model's {what} contain NaN or infinite values.")
    return PredictResult(values, probabilities, tuple(collected))


def _probabilities(model: Any, X: Inputs) -> npt.NDArray[np.float64] | None:
    if not hasattr(model, "predict_proba"):
        return None
    return np.asarray(model.predict_proba(X), dtype=np.float64)


def fix_randomness(model: Any, seed: int) -> None:
    """Seed every random generator that the fit may use: the model's own and the global ones.

    A `random_state` that the project sets is not changed. PyTorch is seeded only if it is already
    imported.
    """
    unset = {
        name: seed
        for name, value in model.get_params(deep=True).items()
        if name.rsplit("__", 1)[-1] == "random_state" and value is None
    }
    model.set_params(**unset)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # for estimators without a random_state
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect the warnings raised inside: one text each, with a count if repeated.

    The list is filled when the block ends.
    """
    collected: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield collected
    counts = Counter(f"{w.category.__name__}: {w.message}" for w in caught)
    collected.extend(
        text if count == 1 else f"{text} ({count} times)" for text, count in counts.items()
    )

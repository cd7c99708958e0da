"""Fit a pipeline, with every random choice fixed and every warning kept."""

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
    """A fitted model, the seconds it took, and what it warned about while it learned."""

    model: Any
    seconds: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class PredictResult:
    """A model's answers: values [rows], and probabilities [rows, labels] where it gives them."""

    values: npt.NDArray[Any]
    probabilities: npt.NDArray[np.float64] | None
    warnings: tuple[str, ...]


def fit(model: Any, X: Inputs, y: npt.NDArray[Any], *, seed: int) -> FitResult:
    """Fit an unfitted scikit-learn pipeline on inputs X [rows, ...] and targets y [rows].

    Whatever the model raises comes through; what it warns about is kept instead of printed.
    """
    fix_randomness(model, seed)
    started = time.perf_counter()
    with collected_warnings() as heard:
        fitted = model.fit(X, y)
    return FitResult(fitted, time.perf_counter() - started, tuple(heard))


def predict(model: Any, X: Inputs) -> PredictResult:
    """What a fitted model answers to X [rows, ...].

    Raises:
        ValueError: The answers hold NaN or infinite values.
    """
    with collected_warnings() as heard:
        values = np.asarray(model.predict(X)).reshape(len(X))
        probabilities = _probabilities(model, X)
    for what, numbers in (("predictions", values), ("probabilities", probabilities)):
        if numbers is not None and numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            raise ValueError(f"The model's {what} hold NaN or infinite values.")
    return PredictResult(values, probabilities, tuple(heard))


def _probabilities(model: Any, X: Inputs) -> npt.NDArray[np.float64] | None:
    if not hasattr(model, "predict_proba"):
        return None
    return np.asarray(model.predict_proba(X), dtype=np.float64)


def fix_randomness(model: Any, seed: int) -> None:
    """Seed every generator the fit may draw from: the model's own and the global ones.

    A `random_state` that the project has set is left alone. PyTorch is seeded only where it is
    already imported.
    """
    unset = {
        name: seed
        for name, value in model.get_params(deep=True).items()
        if name.rsplit("__", 1)[-1] == "random_state" and value is None
    }
    model.set_params(**unset)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # what draws without a random_state of its own
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """The warnings raised inside, as texts with how often each came, filled in at the end."""
    heard: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield heard
    counts = Counter(f"{w.category.__name__}: {w.message}" for w in caught)
    heard.extend(
        text if count == 1 else f"{text} ({count} times)" for text, count in counts.items()
    )

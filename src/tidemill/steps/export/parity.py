"""Parity: whether a compiled model makes the same predictions as the original ("native") model.

Compared on held-out rows, and on rows generated from them that cover rare inputs: columns shuffled
independently, missing values wherever allowed, the ends of every range, every category, unknown
texts. Labels must be identical. A probability p must agree within 1e-5 relative to max(p, 0.01), a
value v within 1e-5 relative to max(|v|, s / 10), where s is the standard deviation of the native
predictions. Below these floors, rounding alone changes the last digits. See decision 022.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tidemill.bundle import Parity
from tidemill.errors import ExportError
from tidemill.signature import Column, Signature
from tidemill.steps.data.signature_inference import conform
from tidemill.steps.export.model_io import InputRows, ModelPredictions

TOLERANCE = 1e-5
PROBABILITY_FLOOR = 0.01
MAX_ROWS = 2000
GENERATED_ROWS = 100
SEED = 20

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ParityCase:
    """Rows, and the native model's predictions for them."""

    rows: InputRows
    native: ModelPredictions


def native_predictions(model: Any, X: InputRows, signature: Signature) -> ModelPredictions:
    """Predict with the native model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # already reported in training
        found = np.asarray(model.predict(X)).reshape(len(X))
        if signature.task == "regression":
            return ModelPredictions(found.astype(np.float64))
        probabilities = model.predict_proba(X) if hasattr(model, "predict_proba") else None
    labels = np.searchsorted(np.array(signature.labels), found)
    return ModelPredictions(
        found, labels, None if probabilities is None else np.asarray(probabilities, np.float64)
    )


def accepted_rows(X: InputRows, signature: Signature) -> npt.NDArray[np.bool_]:
    """Whether the signature accepts each row [rows]; others never reach the model."""
    fits = np.ones(len(X), dtype=bool)
    if not isinstance(X, pd.DataFrame):
        return np.asarray(np.isfinite(np.asarray(X).reshape(len(X), -1)).all(axis=1))
    for column in signature.columns:
        values, missing = X[column.name], X[column.name].isna().to_numpy()
        if not column.nullable:
            fits &= ~missing
        if column.categories is not None:
            fits &= missing | values.isin(column.categories).to_numpy()
    return fits


def compare_predictions(native: ModelPredictions, compiled: ModelPredictions) -> Parity:
    """Compare predictions; those that are not finite in the native model are left out."""
    if native.labels is None or compiled.labels is None:
        exact, given = native.predictions.astype(float), compiled.predictions.astype(float)
        return Parity(len(exact), True, _furthest(exact, given, _floor(exact)))
    equal = bool((native.labels == compiled.labels).all())
    if native.probabilities is None:
        return Parity(len(native.labels), equal, 0.0)
    if compiled.probabilities is None:
        return Parity(len(native.labels), equal, np.inf)
    furthest = _furthest(native.probabilities, compiled.probabilities, PROBABILITY_FLOOR)
    return Parity(len(native.labels), equal, furthest)


def within_tolerance(parity: Parity) -> bool:
    """Whether the labels are equal and the largest relative error is within the tolerance."""
    return parity.labels_equal and parity.max_relative_error <= TOLERANCE


def _floor(exact: Floats) -> float:
    finite = exact[np.isfinite(exact)]
    return float(np.std(finite)) / 10 if len(finite) else 0.0


def _furthest(exact: Floats, given: Floats, floor: float) -> float:
    """The largest relative error; infinite if one value is finite and the other is not."""
    known = np.isfinite(exact)
    if not known.any():
        return 0.0
    scale = np.maximum(np.abs(exact[known]), floor)
    error = np.abs(given[known] - exact[known]) / np.where(scale > 0, scale, 1.0)
    return float(np.where(np.isfinite(error), error, np.inf).max())


def parity_cases(model: Any, X: InputRows, signature: Signature) -> list[ParityCase]:
    """Build the rows to compare a compiled model on, with the native predictions.

    Args:
        X: Held-out rows that the signature accepts; the first 2,000 are used.

    Raises:
        ExportError: The model itself fails on X.
    """
    sample = X[:MAX_ROWS]
    try:
        found = [ParityCase(sample, native_predictions(model, sample, signature))]
    except Exception as error:  # a model may raise anything
        reason = str(error).strip().splitlines()[0]
        raise ExportError(
            f"The model itself fails on held-out rows: {type(error).__name__}: {reason}"
        ) from error
    for rows in _generated(sample, signature):
        with contextlib.suppress(Exception):  # rows that the model refuses need no parity
            found.append(ParityCase(rows, native_predictions(model, rows, signature)))
    return found


def measure_parity(
    cases: Iterable[ParityCase], predict: Callable[[InputRows], ModelPredictions]
) -> Parity:
    """Compare a compiled model's predictions with the native ones over all cases."""
    total = Parity(0, True, 0.0)
    for case in cases:
        total = _combined(total, compare_predictions(case.native, predict(case.rows)))
    return total


def _combined(one: Parity, other: Parity) -> Parity:
    return Parity(
        one.rows + other.rows,
        one.labels_equal and other.labels_equal,
        max(one.max_relative_error, other.max_relative_error),
    )


def _generated(X: InputRows, signature: Signature) -> Iterator[InputRows]:
    rng = np.random.default_rng(SEED)
    if isinstance(X, pd.DataFrame):
        yield from (conform(frame, signature) for frame in _tables(X, signature, rng))
    else:
        yield from _tensors(X, rng)


def _tables(
    X: pd.DataFrame, signature: Signature, rng: np.random.Generator
) -> Iterator[pd.DataFrame]:
    shuffled = pd.DataFrame(
        {
            c.name: _drawn(X[c.name], rng.integers(0, len(X), GENERATED_ROWS))
            for c in signature.columns
        }
    )
    yield shuffled
    yield _changed(shuffled, signature, lambda c, values: _with_missing(c, values, rng))
    yield _changed(shuffled, signature, lambda c, values: _range_ends(c, values, rng))
    yield _changed(shuffled, signature, lambda c, values: _all_categories(c, values, rng))
    if any(c.kind == "text" and c.categories is None for c in signature.columns):
        yield _changed(shuffled, signature, _unknown_texts)


def _drawn(values: pd.Series[Any], positions: npt.NDArray[Any]) -> pd.Series[Any]:
    return values.iloc[positions].reset_index(drop=True).astype(object)


def _changed(
    frame: pd.DataFrame, signature: Signature, change: Callable[[Column, Any], Any]
) -> pd.DataFrame:
    return pd.DataFrame({c.name: change(c, frame[c.name].copy()) for c in signature.columns})


def _with_missing(column: Column, values: Any, rng: np.random.Generator) -> Any:
    """A third of the values missing, if the column is nullable."""
    return values.mask(rng.random(len(values)) < 1 / 3, np.nan) if column.nullable else values


def _range_ends(column: Column, values: Any, rng: np.random.Generator) -> Any:
    """The minimum, the maximum, and values between them."""
    known = values.dropna()
    if column.kind in ("text", "boolean") or known.empty:
        return values
    low, high = known.min(), known.max()
    # As a weighted mean, since the difference of two numbers may overflow.
    share = rng.choice([0.0, 1.0, np.nan], len(values))
    share = np.where(np.isnan(share), rng.random(len(values)), share)
    drawn = low * (1 - share) + high * share
    if column.kind == "integer":
        # Integers near the limits of 64 bits have no exact float.
        return pd.Series([min(max(round(x), int(low)), int(high)) for x in drawn], dtype=object)
    return pd.Series(drawn, dtype=object)


def _all_categories(column: Column, values: Any, rng: np.random.Generator) -> Any:
    """Every category and both booleans, equally often."""
    if column.kind == "boolean":
        return pd.Series(rng.random(len(values)) < 0.5, dtype=object)
    if column.kind == "text" and column.categories:
        return pd.Series(rng.choice(np.array(column.categories, object), len(values)))
    return values


def _unknown_texts(column: Column, values: Any) -> Any:
    """Texts that were not in training, if the signature accepts any text."""
    if column.kind == "text" and column.categories is None:
        return values.where(np.arange(len(values)) % 2 == 0, "an unknown text")
    return values


def _tensors(X: npt.NDArray[Any], rng: np.random.Generator) -> Iterator[npt.NDArray[Any]]:
    """Noise in the range of the data, and rows with each element from a random row."""
    low, high = float(X.min()), float(X.max())
    shape = (min(GENERATED_ROWS, len(X)), *X.shape[1:])
    yield rng.uniform(low, high, shape).astype(X.dtype)
    flat = X.reshape(len(X), -1)
    rows = rng.integers(0, len(X), (shape[0], flat.shape[1]))
    yield flat[rows, np.arange(flat.shape[1])].reshape(shape)

"""Whether a compiled model answers what the native one answers.

Checked on held-out rows, and on rows made of them that reach what held-out rows seldom do: columns
shuffled against each other, missing values wherever they may be, the ends of every range, every
category, texts never seen. Labels must be identical. A probability p must be within 1e-5 of the
native one relative to max(p, 0.01); a value v relative to max(|v|, a tenth of the spread of the
native answers): below that, rounding alone moves the last digits.
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
    """Rows, and what the native model answers to them."""

    rows: InputRows
    native: ModelPredictions


def native_predictions(model: Any, X: InputRows, signature: Signature) -> ModelPredictions:
    """What the model itself answers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training has reported them
        found = np.asarray(model.predict(X)).reshape(len(X))
        if signature.task == "regression":
            return ModelPredictions(found.astype(np.float64))
        likely = model.predict_proba(X) if hasattr(model, "predict_proba") else None
    labels = np.searchsorted(np.array(signature.labels), found)
    return ModelPredictions(
        found, labels, None if likely is None else np.asarray(likely, np.float64)
    )


def accepted_rows(X: InputRows, signature: Signature) -> npt.NDArray[np.bool_]:
    """Which rows [rows] the signature takes: others never reach the model."""
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
    """How far the compiled answers are from the native ones; rows of which the native answer is not
    finite are left out."""
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
    return parity.labels_equal and parity.max_relative_error <= TOLERANCE


def _floor(exact: Floats) -> float:
    finite = exact[np.isfinite(exact)]
    return float(np.std(finite)) / 10 if len(finite) else 0.0


def _furthest(exact: Floats, given: Floats, floor: float) -> float:
    """The largest relative error; infinite where one is finite and the other is not."""
    known = np.isfinite(exact)
    if not known.any():
        return 0.0
    scale = np.maximum(np.abs(exact[known]), floor)
    error = np.abs(given[known] - exact[known]) / np.where(scale > 0, scale, 1.0)
    return float(np.where(np.isfinite(error), error, np.inf).max())


def parity_cases(model: Any, X: InputRows, signature: Signature) -> list[ParityCase]:
    """What to compare a compiled model on, with the native answers.

    Args:
        X: Held-out rows that the signature takes; the first 2,000 are used.

    Raises:
        ExportError: The model itself does not answer X.
    """
    held = X[:MAX_ROWS]
    try:
        found = [ParityCase(held, native_predictions(model, held, signature))]
    except Exception as error:  # a model may fail in any way
        reason = str(error).strip().splitlines()[0]
        raise ExportError(
            f"The model itself fails on held-out rows: {type(error).__name__}: {reason}"
        ) from error
    for rows in _made_up(held, signature):
        with contextlib.suppress(Exception):  # rows that the model refuses need no answer
            found.append(ParityCase(rows, native_predictions(model, rows, signature)))
    return found


def measure_parity(
    found: Iterable[ParityCase], answer: Callable[[InputRows], ModelPredictions]
) -> Parity:
    """How far a compiled model's answers are from the native ones."""
    total = Parity(0, True, 0.0)
    for trial in found:
        total = _both(total, compare_predictions(trial.native, answer(trial.rows)))
    return total


def _both(one: Parity, other: Parity) -> Parity:
    return Parity(
        one.rows + other.rows,
        one.labels_equal and other.labels_equal,
        max(one.max_relative_error, other.max_relative_error),
    )


def _made_up(X: InputRows, signature: Signature) -> Iterator[InputRows]:
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
    yield _changed(shuffled, signature, lambda c, values: _gaps(c, values, rng))
    yield _changed(shuffled, signature, lambda c, values: _ends(c, values, rng))
    yield _changed(shuffled, signature, lambda c, values: _listed(c, values, rng))
    if any(c.kind == "text" and c.categories is None for c in signature.columns):
        yield _changed(shuffled, signature, _strangers)


def _drawn(values: pd.Series[Any], places: npt.NDArray[Any]) -> pd.Series[Any]:
    return values.iloc[places].reset_index(drop=True).astype(object)


def _changed(
    frame: pd.DataFrame, signature: Signature, change: Callable[[Column, Any], Any]
) -> pd.DataFrame:
    return pd.DataFrame({c.name: change(c, frame[c.name].copy()) for c in signature.columns})


def _gaps(column: Column, values: Any, rng: np.random.Generator) -> Any:
    """A third of the values missing, where they may be."""
    return values.mask(rng.random(len(values)) < 1 / 3, np.nan) if column.nullable else values


def _ends(column: Column, values: Any, rng: np.random.Generator) -> Any:
    """The least, the greatest, and anything in between."""
    known = values.dropna()
    if column.kind in ("text", "boolean") or known.empty:
        return values
    low, high = known.min(), known.max()
    # Weights rather than a range: the difference of two numbers may be beyond what fits.
    share = rng.choice([0.0, 1.0, np.nan], len(values))
    share = np.where(np.isnan(share), rng.random(len(values)), share)
    drawn = low * (1 - share) + high * share
    if column.kind == "integer":
        # No whole number near the ends of 64 bits is the same as a float.
        return pd.Series([min(max(round(x), int(low)), int(high)) for x in drawn], dtype=object)
    return pd.Series(drawn, dtype=object)


def _listed(column: Column, values: Any, rng: np.random.Generator) -> Any:
    """Every category and both booleans, alike often."""
    if column.kind == "boolean":
        return pd.Series(rng.random(len(values)) < 0.5, dtype=object)
    if column.kind == "text" and column.categories:
        return pd.Series(rng.choice(np.array(column.categories, object), len(values)))
    return values


def _strangers(column: Column, values: Any) -> Any:
    """Texts that were not in training, where the signature takes any."""
    if column.kind == "text" and column.categories is None:
        return values.where(np.arange(len(values)) % 2 == 0, "a text never seen")
    return values


def _tensors(X: npt.NDArray[Any], rng: np.random.Generator) -> Iterator[npt.NDArray[Any]]:
    """Noise in the range of the data, and every number from another row."""
    low, high = float(X.min()), float(X.max())
    shape = (min(GENERATED_ROWS, len(X)), *X.shape[1:])
    yield rng.uniform(low, high, shape).astype(X.dtype)
    flat = X.reshape(len(X), -1)
    rows = rng.integers(0, len(X), (shape[0], flat.shape[1]))
    yield flat[rows, np.arange(flat.shape[1])].reshape(shape)

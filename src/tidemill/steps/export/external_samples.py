"""Sample rows for a model without training data: its input example, and generated rows near it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tidemill.signature import Column, Signature, Tensor
from tidemill.steps.data.signature_inference import conform
from tidemill.steps.export.model_io import InputRows
from tidemill.steps.export.parity import accepted_rows

ROWS = 64
SEED = 11
SCALES = (1.0, 10.0, 100.0)


def sample_rows(signature: Signature, example: Any) -> InputRows:
    """Rows that the signature accepts: those of the example first, then generated ones near it.

    Args:
        example: The model's input example: a DataFrame, an array, a dict of arrays, or None.
    """
    rng = np.random.default_rng(SEED)
    if signature.tensor is not None:
        return _tensors(signature.tensor, example, rng)
    known = example_rows(signature, example)
    made = pd.DataFrame(
        {
            c.name: _values(c, None if known is None else known[c.name], rng)
            for c in signature.columns
        }
    )
    frame = made if known is None else pd.concat([known.astype(object), made], ignore_index=True)
    frame = conform(frame, signature)
    return frame[accepted_rows(frame, signature)]


def example_rows(signature: Signature, example: Any) -> pd.DataFrame | None:
    """The example as a DataFrame with the signature's columns; None if it cannot be converted."""
    names = list(signature.names)
    try:
        if isinstance(example, dict):
            flat = {n: np.asarray(v).reshape(-1) for n, v in example.items()}
            example = pd.DataFrame(flat)
        elif isinstance(example, list | np.ndarray):
            example = pd.DataFrame(np.asarray(example).reshape(len(example), -1), columns=names)
        elif isinstance(example, pd.DataFrame) and not set(names) & set(example.columns):
            example = example.set_axis(names, axis=1)
        if not isinstance(example, pd.DataFrame):
            return None
        return conform(example.reindex(columns=names).reset_index(drop=True), signature)
    except (ValueError, TypeError):
        return None


def columns_with_missing(example: Any) -> frozenset[str]:
    """The columns of an example that have missing values."""
    if not isinstance(example, pd.DataFrame):
        return frozenset()
    return frozenset(str(name) for name in example.columns[example.isna().any()])


def _tensors(tensor: Tensor, example: Any, rng: np.random.Generator) -> npt.NDArray[Any]:
    made = rng.normal(size=(ROWS, *tensor.shape)) * rng.choice(SCALES, (ROWS, 1)).reshape(
        -1, *[1] * len(tensor.shape)
    )
    alone: npt.NDArray[Any] = made.astype(tensor.dtype)
    if isinstance(example, dict) and tensor.name in example:
        example = example[tensor.name]
    try:
        given = np.asarray(example, dtype=tensor.dtype).reshape(-1, *tensor.shape)
    except (ValueError, TypeError):
        return alone
    if not np.isfinite(given).all():
        return alone
    spread = np.abs(given).max() or 1.0
    near = given[rng.integers(0, len(given), ROWS)] + rng.normal(size=made.shape) * spread / 10
    return np.concatenate([given, near.astype(tensor.dtype)])


def _values(column: Column, known: pd.Series[Any] | None, rng: np.random.Generator) -> Any:
    have = [] if known is None else known.dropna().tolist()
    if column.kind == "boolean":
        values = (rng.random(ROWS) < 0.5).tolist()
    elif column.kind == "text":
        values = rng.choice(np.array(have or ["a"], object), ROWS).tolist()
    else:
        values = _numbers(have, rng)
        if column.kind == "integer":
            values = [round(value) for value in values]
    if column.nullable:
        values = [None if rng.random() < 0.1 else value for value in values]
    return pd.Series(values, dtype=object)


def _numbers(have: list[Any], rng: np.random.Generator) -> list[float]:
    if not have:
        drawn = rng.normal(size=ROWS) * rng.choice(SCALES, ROWS)
        return [float(value) for value in drawn]
    middle = float(np.mean(have))
    spread = float(np.std(have)) or abs(middle) / 2 or 1.0
    return [float(value) for value in middle + spread * rng.normal(size=ROWS)]

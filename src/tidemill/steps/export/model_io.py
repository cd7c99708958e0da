"""Rows to the arrays a bundle's model takes, and what it gave back to answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tidemill.bundle import ModelInput
from tidemill.serving.model.runtime import Runtime
from tidemill.signature import Signature

Array = npt.NDArray[Any]
InputRows = pd.DataFrame | Array


@dataclass(frozen=True)
class ModelPredictions:
    """What a model answers to rows.

    Attributes:
        predictions: [rows] labels or values.
        labels: [rows] index of each label in the signature's; None for regression.
        probabilities: [rows, labels], where the model gives them.
    """

    predictions: Array
    labels: npt.NDArray[np.int64] | None = None
    probabilities: npt.NDArray[np.float64] | None = None


def input_arrays(X: InputRows, inputs: Sequence[ModelInput]) -> list[Array]:
    """One array for each of the manifest's inputs.

    Args:
        X: A DataFrame with the signature's columns, or an array [rows, *shape] for a tensor.
    """
    if not isinstance(X, pd.DataFrame):
        return [np.ascontiguousarray(X, dtype=inputs[0].dtype)]
    return [_array(X, entry) for entry in inputs]


def _array(frame: pd.DataFrame, entry: ModelInput) -> Array:
    columns = frame[list(entry.columns)]
    if entry.dtype != "string":
        return np.ascontiguousarray(columns.to_numpy(dtype=entry.dtype, na_value=np.nan))
    texts = columns.astype(object).to_numpy(copy=True)
    texts[pd.isna(texts)] = "" if entry.missing is None else entry.missing
    return texts


def predict_in_batches(
    runtime: Runtime, inputs: Sequence[ModelInput], signature: Signature, X: InputRows
) -> ModelPredictions:
    """What a bundle's model answers to rows, in batches of a bounded size.

    Args:
        runtime: Loaded from the bundle (`tidemill.serving.model.runtime.load_runtime`).
        inputs: The inputs in the bundle's manifest.
        X: As of `input_arrays`.
    """
    parts = [
        runtime.run(input_arrays(X[start : start + BATCH], inputs))
        for start in range(0, len(X), BATCH)
    ]
    labels, likely, values = (
        None if any(part[i] is None for part in parts) else np.concatenate([p[i] for p in parts])
        for i in range(3)
    )
    if signature.task == "regression":
        assert values is not None
        return ModelPredictions(values.astype(np.float64))
    if labels is None:
        assert likely is not None
        labels = likely.argmax(axis=1)
    return ModelPredictions(np.array(signature.labels)[labels], labels, likely)


BATCH = 4096

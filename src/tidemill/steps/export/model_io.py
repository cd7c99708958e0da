"""Rows as the input arrays of a bundle's model, and its output arrays as predictions."""

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

BATCH = 4096

Array = npt.NDArray[Any]
InputRows = pd.DataFrame | Array


@dataclass(frozen=True)
class ModelPredictions:
    """A model's predictions.

    Attributes:
        predictions: Labels or values [rows].
        labels: The index of each label in the signature's labels [rows]; None for regression.
        probabilities: [rows, labels]; None if the model has none.
    """

    predictions: Array
    labels: npt.NDArray[np.int64] | None = None
    probabilities: npt.NDArray[np.float64] | None = None


def input_arrays(X: InputRows, inputs: Sequence[ModelInput]) -> list[Array]:
    """Convert rows to one array for each of the manifest's inputs.

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
    """Predict with a bundle's model, in batches of 4096 rows.

    Args:
        runtime: Loaded from the bundle (`tidemill.serving.model.runtime.load_runtime`).
        inputs: The inputs in the bundle's manifest.
        X: As for `input_arrays`.
    """
    parts = [
        runtime.run(input_arrays(X[start : start + BATCH], inputs))
        for start in range(0, len(X), BATCH)
    ]
    labels, probabilities, values = (
        None if any(part[i] is None for part in parts) else np.concatenate([p[i] for p in parts])
        for i in range(3)
    )
    if signature.task == "regression":
        assert values is not None
        return ModelPredictions(values.astype(np.float64))
    if labels is None:
        assert probabilities is not None
        labels = probabilities.argmax(axis=1)
    return ModelPredictions(np.array(signature.labels)[labels], labels, probabilities)

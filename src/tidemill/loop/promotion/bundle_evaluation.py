"""Evaluate a version's bundle: its predictions for bundle-out rows, its latency and its parity.

The bundle is loaded as the server loads it, compiled and without unpickling, so that the gate
decides on what will be served.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tidemill.bundle import Bundle
from tidemill.errors import BundleError, GateError
from tidemill.serving.codec.outputs import Outputs
from tidemill.serving.codec.tensor_encoder import TensorEncoder
from tidemill.serving.model.loading import smoke_test
from tidemill.serving.model.runtime import Runtime, load_runtime
from tidemill.signature import Column, Signature
from tidemill.steps.gate.gate import VersionEvidence

Array = npt.NDArray[Any]

ROWS_A_RUN = 2048


def accepted_rows(frame: pd.DataFrame, signature: Signature) -> npt.NDArray[np.bool_]:
    """Return which rows [rows] the server accepts; it refuses the others with status 422.

    Raises:
        GateError: The frame lacks a column of the signature.
    """
    if signature.tensor is not None:
        inputs = _tensor_inputs(frame, signature)
        return np.asarray(np.isfinite(inputs).all(axis=1))
    good = np.ones(len(frame), dtype=bool)
    for column in signature.columns:
        if column.name not in frame.columns:
            raise GateError(
                f"The rows have no column '{column.name}', which this version needs.",
                field=column.name,
                remedy="Promote with --force and a reason, or give rows that have it.",
            )
        good &= _fits(frame[column.name], column)
    return good


class BundleEvaluator:
    """A bundle, loaded once, that predicts rows.

    Args:
        trusted: Types that this machine trusts a native fallback with.

    Raises:
        BundleError: The model cannot be loaded.
    """

    def __init__(self, bundle: Bundle, *, trusted: Iterable[str] = ()) -> None:
        self.bundle = bundle
        self._runtime = load_runtime(bundle, trusted=trusted)
        try:
            self._milliseconds: float | None = 1000 * smoke_test(bundle, self._runtime).seconds(1)
        except BundleError:
            self._milliseconds = None

    def evidence(self, frame: pd.DataFrame) -> VersionEvidence:
        """Predict rows that the bundle accepts; adds its parity and latency."""
        bundle, labels = self.bundle, self.bundle.signature.labels
        outputs = _run(bundle, self._runtime, frame)
        predicted = outputs.values
        if outputs.labels is not None:
            predicted = np.array(labels, dtype=object)[outputs.labels]
        assert predicted is not None
        return VersionEvidence(
            predicted=predicted,
            probabilities=outputs.probabilities,
            labels=labels,
            latency_ms=self._milliseconds,
            parity=bundle.manifest.parity,
            native=bundle.manifest.runtime != "onnx",
            reproduced=self._milliseconds is not None,
        )


def evaluate_bundle(
    bundle: Bundle, frame: pd.DataFrame, *, trusted: Iterable[str] = ()
) -> VersionEvidence:
    """Predict rows that a bundle accepts; adds its parity and latency.

    Args:
        frame: Cleaned rows; columns that are not in the signature are ignored.
        trusted: Types that this machine trusts a native fallback with.

    Raises:
        BundleError: The model cannot be loaded.
    """
    return BundleEvaluator(bundle, trusted=trusted).evidence(frame)


def _run(bundle: Bundle, runtime: Runtime, frame: pd.DataFrame) -> Outputs:
    encoder = TensorEncoder(bundle.signature.stored, bundle.manifest.inputs)
    parts = []
    for start in range(0, len(frame), ROWS_A_RUN):
        arrays = _arrays(encoder, frame.iloc[start : start + ROWS_A_RUN])
        parts.append(Outputs(*runtime.run(arrays)))
    names = ("labels", "probabilities", "values")
    return Outputs(*(_joined([getattr(part, name) for part in parts]) for name in names))


def _joined(parts: list[Array | None]) -> Array | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known else None


def _arrays(encoder: TensorEncoder, frame: pd.DataFrame) -> list[Array]:
    signature = encoder.signature
    if signature.tensor is not None:
        return encoder.encode_tensor(_tensor_inputs(frame, signature)).arrays
    columns = {c.name: _values(frame[c.name], c) for c in signature.columns}
    return encoder.encode_columns(columns).arrays


def _tensor_inputs(frame: pd.DataFrame, signature: Signature) -> Array:
    inputs = frame.drop(columns=signature.target, errors="ignore")
    return inputs.to_numpy(dtype=np.float32)


def _values(series: pd.Series[Any], column: Column) -> Any:
    """The column as the server's encoder takes it: an array of numbers, or values with None."""
    if column.kind == "number":
        return series.to_numpy(dtype=np.float64)
    missing = series.isna().tolist()
    plain = series.astype(object).tolist()
    if column.kind == "boolean":  # bundle as float64 where some are missing
        plain = [value if gap else bool(value) for value, gap in zip(plain, missing, strict=True)]
    return [None if gap else value for value, gap in zip(plain, missing, strict=True)]


def _fits(series: pd.Series[Any], column: Column) -> npt.NDArray[np.bool_]:
    missing = series.isna().to_numpy()
    if column.kind == "text":
        known = column.categories
        good = np.ones(len(series), dtype=bool) if known is None else series.isin(known).to_numpy()
    else:
        numbers = series.to_numpy(dtype=np.float64, na_value=np.nan)
        good = np.isfinite(numbers)
        if column.kind == "integer":
            good &= np.equal(np.mod(np.where(good, numbers, 0), 1), 0)
    fits: npt.NDArray[np.bool_] = np.where(missing, column.nullable, good)
    return fits

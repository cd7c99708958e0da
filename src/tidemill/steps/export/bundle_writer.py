"""From a fitted model to a bundle: compile, compare with the original, write and seal."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from tidemill import bundle
from tidemill.bundle import (
    EXAMPLE,
    FORMAT,
    MODEL_FILES,
    PROFILE,
    SIGNATURE,
    Bundle,
    Example,
    Manifest,
    RowPrediction,
)
from tidemill.errors import ExportError
from tidemill.signature import Signature, Value
from tidemill.steps.export.compile import Compiled, compile_model, load_compiled
from tidemill.steps.export.model_io import InputRows, ModelPredictions, predict_in_batches
from tidemill.steps.export.parity import accepted_rows
from tidemill.steps.export.reference_profile import make_profile

EXAMPLE_ROWS = 5
PACKAGES = ("tidemill", "numpy", "scikit-learn", "onnx", "onnxruntime", "skl2onnx", "skops")


@dataclass(frozen=True)
class BundleMetadata:
    """What a bundle's manifest says about a model besides its files.

    Attributes:
        name: The registered model's name.
        metrics: On held-out rows; values that are not finite are left out.
        versions: Package versions besides those that `package_versions` finds.
        source: Where the model comes from: run_id, candidate, data_fingerprint, git_commit.
        created: ISO 8601, UTC; empty means now.
    """

    name: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)
    created: str = ""


@dataclass(frozen=True)
class HeldOutRows:
    """Held-out rows for the parity check, the example and the profile.

    Attributes:
        X: Inputs [rows, ...].
        y: Targets [rows]; without them, the profile has no held-out metrics.
    """

    X: InputRows
    y: npt.NDArray[Any] | None = None


def export_bundle(
    model: Any,
    signature: Signature,
    X_train: InputRows,
    held_out: HeldOutRows,
    folder: Path,
    metadata: BundleMetadata,
) -> Bundle:
    """Compile a fitted model, check it against the original, and write its bundle.

    Args:
        model: A fitted pipeline.
        X_train: The rows that the model was fitted on, for the profile.
        held_out: Rows that the signature does not accept are left out.
        folder: Created if it does not exist; must be empty.

    Raises:
        ExportError: Neither ONNX nor the native fallback can serve the model; the message gives
            the reasons.
    """
    _prepare(folder)
    X_held, y_held = _accepted(held_out, X_train, signature)
    compiled = compile_model(model, signature, X_held)
    runtime = load_compiled(compiled, signature)
    predictions = predict_in_batches(runtime, compiled.inputs, signature, X_held)
    profile = make_profile(X_train, signature, predictions, y_test=y_held)
    example = make_example(X_held, signature, predictions)
    return write_bundle(folder, compiled, signature, profile, example, metadata)


def write_bundle(
    folder: Path,
    compiled: Compiled,
    signature: Signature,
    profile: Mapping[str, Any],
    example: Example,
    metadata: BundleMetadata,
) -> Bundle:
    """Write a bundle's files and seal it; a model file that exists already is kept."""
    _write(folder / SIGNATURE, signature)
    _write(folder / PROFILE, profile)
    _write(folder / EXAMPLE, example)
    model = folder / MODEL_FILES[compiled.runtime]
    if not model.exists():
        model.write_bytes(compiled.content)
    manifest = _manifest(compiled, metadata.name)
    return bundle.seal(
        folder,
        msgspec.structs.replace(
            manifest,
            created=metadata.created or manifest.created,
            versions={**manifest.versions, **metadata.versions},
            metrics=_finite(metadata.metrics),
            source=dict(metadata.source),
        ),
    )


def _prepare(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ExportError(f"{folder} is not empty.", remedy="Use an empty folder.")


def _accepted(
    held_out: HeldOutRows, X_train: InputRows, signature: Signature
) -> tuple[InputRows, npt.NDArray[Any] | None]:
    """The held-out rows that the signature accepts; training rows if it accepts none."""
    accepted = accepted_rows(held_out.X, signature)
    if not accepted.any():
        return X_train[accepted_rows(X_train, signature)], None
    y = held_out.y
    return held_out.X[accepted], None if y is None else np.asarray(y)[accepted]


def _manifest(compiled: Compiled, name: str) -> Manifest:
    return Manifest(
        format=FORMAT,
        model=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        runtime=compiled.runtime,
        files={},
        inputs=compiled.inputs,
        outputs=compiled.outputs,
        parity=compiled.parity,
        fallback_reason=compiled.reason,
        trusted_types=compiled.trusted_types,
        versions=package_versions(),
    )


def make_example(X: InputRows, signature: Signature, predictions: ModelPredictions) -> Example:
    """The bundle's example: the first rows with their predictions, of every label if possible.

    Raises:
        ExportError: No held-out row has a finite prediction.
    """
    positions = _example_positions(predictions)
    if not positions:
        raise ExportError("The model returns no finite prediction for any held-out row.")
    rows = tuple(_row(X, position, signature) for position in positions)
    return Example(rows, tuple(_prediction(predictions, p, signature) for p in positions))


def package_versions() -> dict[str, str]:
    """The versions of Python and of the packages that take part in compiling."""
    found = {"python": ".".join(str(part) for part in sys.version_info[:3])}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _example_positions(predictions: ModelPredictions) -> list[int]:
    """The first row of each label, then the first other rows, up to the example's size."""
    if predictions.labels is None:
        return [int(i) for i in np.flatnonzero(np.isfinite(predictions.predictions))[:EXAMPLE_ROWS]]
    _, positions = np.unique(predictions.labels, return_index=True)
    firsts = sorted(positions.tolist())[:EXAMPLE_ROWS]
    others = [i for i in range(min(len(predictions.labels), EXAMPLE_ROWS)) if i not in firsts]
    return sorted([*firsts, *others][:EXAMPLE_ROWS])


def _row(X: InputRows, position: int, signature: Signature) -> tuple[Value, ...]:
    if not isinstance(X, pd.DataFrame):
        return tuple(np.asarray(X[position], dtype=float).ravel().tolist())
    row = X[list(signature.names)].iloc[[position]].astype(object).to_numpy()[0]
    pairs = zip(row.tolist(), signature.columns, strict=True)
    return tuple(_value(value, column.kind) for value, column in pairs)


def _value(value: Any, kind: str) -> Value:
    if pd.isna(value):
        return None
    kinds = {"integer": int, "boolean": bool, "text": str}
    plain: Value = kinds.get(kind, float)(value)
    return plain


def _prediction(
    predictions: ModelPredictions, position: int, signature: Signature
) -> RowPrediction:
    if predictions.labels is None:
        return RowPrediction(float(predictions.predictions[position]))
    probabilities = predictions.probabilities
    return RowPrediction(
        signature.labels[int(predictions.labels[position])],
        None if probabilities is None else tuple(probabilities[position].tolist()),
    )


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The finite metrics: JSON has no NaN and no infinity."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def _write(path: Path, value: Any) -> None:
    path.write_bytes(msgspec.json.encode(value))

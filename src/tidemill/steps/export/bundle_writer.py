"""From a fitted model to a bundle: compile, check against the model itself, write, seal."""

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
from tidemill.steps.drift.profile import make_profile
from tidemill.steps.export.compile import Compiled, compile_model, load_compiled
from tidemill.steps.export.model_io import InputRows, ModelPredictions, predict_in_batches
from tidemill.steps.export.parity import accepted_rows

__all__ = [
    "BundleMetadata",
    "Compiled",
    "compile_model",
    "export_bundle",
    "make_example",
    "package_versions",
    "write_bundle",
]


@dataclass(frozen=True)
class BundleMetadata:
    """Where a model comes from, for its manifest.

    Attributes:
        name: The registered model's name.
        created: ISO 8601, UTC; empty means now.
    """

    name: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)
    created: str = ""


EXAMPLE_ROWS = 5
PACKAGES = ("tidemill", "numpy", "scikit-learn", "onnx", "onnxruntime", "skl2onnx", "skops")


def export_bundle(
    model: Any,
    signature: Signature,
    X_test: InputRows,
    y_test: npt.NDArray[Any] | None,
    folder: Path,
    *,
    name: str,
    X_train: InputRows,
    metrics: Mapping[str, float] | None = None,
    versions: Mapping[str, str] | None = None,
    source: Mapping[str, str] | None = None,
) -> Bundle:
    """Compile a fitted model and write its bundle.

    Args:
        model: A fitted pipeline.
        X_test: Held-out rows: for the parity check, the example and the profile. Those that the
            signature does not take are left out.
        y_test: Their targets [rows]; None leaves the held-out metrics out of the profile.
        folder: Made if it is not there; must be empty.
        name: The registered model's name.
        X_train: What the model was fitted on, for the profile.
        metrics: On held-out rows; those that are not finite are left out.
        versions: Packages and versions beside those known here.
        source: Where the model comes from: run_id, candidate, data_fingerprint, git_commit.

    Raises:
        ExportError: Neither ONNX nor the native fallback can serve the model; the message says why.
    """
    _prepare(folder)
    X_held, y_held = _held(X_test, y_test, X_train, signature)
    compiled = compile_model(model, signature, X_held)
    answers = predict_in_batches(
        load_compiled(compiled, signature), compiled.inputs, signature, X_held
    )
    return write_bundle(
        folder,
        compiled,
        signature,
        make_profile(X_train, signature, answers, y_test=y_held),
        make_example(X_held, signature, answers),
        BundleMetadata(name, metrics or {}, versions or {}, source or {}),
    )


def write_bundle(
    folder: Path,
    compiled: Compiled,
    signature: Signature,
    profile: Mapping[str, Any],
    example: Example,
    made: BundleMetadata,
) -> Bundle:
    """Write and seal a bundle's files; a model that is in the folder already stays as it is."""
    _write(folder / SIGNATURE, signature)
    _write(folder / PROFILE, profile)
    _write(folder / EXAMPLE, example)
    model = folder / MODEL_FILES[compiled.runtime]
    if not model.exists():
        model.write_bytes(compiled.content)
    manifest = _manifest(compiled, made.name)
    return bundle.seal(
        folder,
        msgspec.structs.replace(
            manifest,
            created=made.created or manifest.created,
            versions={**manifest.versions, **made.versions},
            metrics=_finite(made.metrics),
            source=dict(made.source),
        ),
    )


def _prepare(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ExportError(f"{folder} is not empty.", remedy="Give a folder of its own.")


def _held(
    X_test: InputRows, y_test: npt.NDArray[Any] | None, X_train: InputRows, signature: Signature
) -> tuple[InputRows, npt.NDArray[Any] | None]:
    """The held-out rows that the signature takes; training rows where there is none."""
    fits = accepted_rows(X_test, signature)
    if not fits.any():
        return X_train[accepted_rows(X_train, signature)], None
    return X_test[fits], None if y_test is None else np.asarray(y_test)[fits]


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


def make_example(X: InputRows, signature: Signature, answers: ModelPredictions) -> Example:
    """The first rows and their answers, spread over the labels where there are some."""
    places = _spread(answers)
    if not places:
        raise ExportError("The model finds no finite answer to any held-out row.")
    rows = tuple(_row(X, place, signature) for place in places)
    return Example(rows, tuple(_answer(answers, place, signature) for place in places))


def package_versions() -> dict[str, str]:
    """The versions of what takes part in compiling, and of Python."""
    found = {"python": ".".join(str(part) for part in sys.version_info[:3])}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _spread(answers: ModelPredictions) -> list[int]:
    """The first row of each label, then the first rows, as many as an example has."""
    if answers.labels is None:
        return [int(i) for i in np.flatnonzero(np.isfinite(answers.predictions))[:EXAMPLE_ROWS]]
    _, places = np.unique(answers.labels, return_index=True)
    firsts = sorted(places.tolist())[:EXAMPLE_ROWS]
    others = [i for i in range(min(len(answers.labels), EXAMPLE_ROWS)) if i not in firsts]
    return sorted([*firsts, *others][:EXAMPLE_ROWS])


def _row(X: InputRows, place: int, signature: Signature) -> tuple[Value, ...]:
    if not isinstance(X, pd.DataFrame):
        return tuple(np.asarray(X[place], dtype=float).ravel().tolist())
    row = X[list(signature.names)].iloc[[place]].astype(object).to_numpy()[0]
    pairs = zip(row.tolist(), signature.columns, strict=True)
    return tuple(_value(value, column.kind) for value, column in pairs)


def _value(value: Any, kind: str) -> Value:
    if pd.isna(value):
        return None
    plain: Value = {"number": float, "integer": int, "boolean": bool, "text": str}[kind](value)
    return plain


def _answer(answers: ModelPredictions, place: int, signature: Signature) -> RowPrediction:
    if answers.labels is None:
        return RowPrediction(float(answers.predictions[place]))
    likely = answers.probabilities
    return RowPrediction(
        signature.labels[int(answers.labels[place])],
        None if likely is None else tuple(likely[place].tolist()),
    )


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """JSON has no NaN and no infinity."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def _write(path: Path, value: Any) -> None:
    path.write_bytes(msgspec.json.encode(value))

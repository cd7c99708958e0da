"""The bundle: the folder that is deployed, and all that passes from training to serving.

    manifest.json    its contents: runtime, inputs, outputs, versions, metrics, sha256 of each file
    signature.json   the model's inputs and output (`tidemill.signature.Signature`)
    model.onnx       the compiled model; model.skops for the native fallback; model.tar, an MLflow
                     model's folder, for a model that runs in its own process
    profile.json     the distribution of the training data: the reference for drift
    example.json     rows with the model's predictions in training, tested again before serving

A bundle is identified by its digest, the sha256 of manifest.json. The manifest contains the hash of
every other file, so the digest covers the whole folder. The data plane unpickles nothing from it;
the contents of model.tar are run by another process, and only if the operator trusts the registry.

See decision 001.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from tidemill.errors import BundleError
from tidemill.signature import Label, Signature, Value

T = TypeVar("T")

FORMAT = 1
MANIFEST = "manifest.json"
SIGNATURE = "signature.json"
PROFILE = "profile.json"
EXAMPLE = "example.json"
COPY_AGAIN = "The bundle is corrupt: copy it again from where it was trained."
MODEL_FILES = {"onnx": "model.onnx", "skops": "model.skops", "pyfunc": "model.tar"}


class FileEntry(msgspec.Struct, frozen=True):
    """The hash, and the size in bytes, of one file."""

    sha256: str
    size: int


class ModelInput(msgspec.Struct, frozen=True):
    """One input of the compiled model, and the columns of its matrix [rows, columns].

    A tensor model has one ModelInput without columns, which takes [rows, *shape].

    Attributes:
        missing: The string that stands for null in a string input; in a numeric input it is NaN.
    """

    name: str
    dtype: Literal["float32", "float64", "int64", "bool", "string"]
    columns: tuple[str, ...] = ()
    missing: str | None = None


class ModelOutputs(msgspec.Struct, frozen=True):
    """The names of the compiled model's outputs.

    A classifier has `probabilities` [rows, labels], or `label` [rows] (int64 indices into the
    signature's labels), or both; with probabilities alone, the label is their argmax. A regressor
    has `value` [rows] or [rows, 1].
    """

    label: str | None = None
    probabilities: str | None = None
    value: str | None = None


class Parity(msgspec.Struct, frozen=True):
    """How close the compiled model's predictions are to the original's, on held-out rows."""

    rows: int
    labels_equal: bool
    max_relative_error: float


class Manifest(msgspec.Struct, frozen=True):
    """The contents of a bundle."""

    format: int
    model: str
    created: str  # ISO 8601, UTC
    runtime: Literal["onnx", "skops", "pyfunc"]
    files: dict[str, FileEntry]
    inputs: tuple[ModelInput, ...]
    outputs: ModelOutputs
    parity: Parity | None = None
    fallback_reason: str | None = None  # why the native fallback is used, if it is
    trusted_types: tuple[str, ...] = ()  # types that the native fallback needs the server to trust
    versions: dict[str, str] = {}  # packages used in training
    metrics: dict[str, float] = {}  # on held-out rows, in training
    source: dict[str, str] = {}  # run_id, candidate, data_fingerprint, git_commit


class RowPrediction(msgspec.Struct, frozen=True, omit_defaults=True):
    """The prediction for one row, with probabilities in the order of the labels."""

    prediction: Label
    probabilities: tuple[float, ...] | None = None


class Example(msgspec.Struct, frozen=True):
    """Rows in the order of the signature's inputs (a tensor is flat), and their predictions."""

    rows: tuple[tuple[Value, ...], ...]
    answers: tuple[RowPrediction, ...]


class Bundle(msgspec.Struct, frozen=True):
    """A bundle on disk whose files match its manifest."""

    path: Path
    digest: str
    manifest: Manifest
    signature: Signature

    @property
    def model_path(self) -> Path:
        return self.path / MODEL_FILES[self.manifest.runtime]

    def example(self) -> Example:
        """The rows to test the model on before serving.

        Raises:
            BundleError: The file cannot be parsed.
        """
        return _decode(self.path / EXAMPLE, Example)

    def profile(self) -> dict[str, Any]:
        """The distribution of the training data; see `tidemill.steps.export.reference_profile`.

        Raises:
            BundleError: The file cannot be parsed.
        """
        return _decode(self.path / PROFILE, dict[str, Any])


def seal(folder: Path, manifest: Manifest) -> Bundle:
    """Hash every file in `folder`, write the manifest with the hashes, and read the bundle back.

    Raises:
        BundleError: The folder lacks a file, or the manifest is invalid.
    """
    entries = {
        path.name: FileEntry(sha256=file_digest(path), size=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    sealed = msgspec.structs.replace(manifest, files=entries)
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(sealed), indent=2))
    return read(folder)


def read(folder: Path, *, digest: str | None = None) -> Bundle:
    """Read the bundle in `folder` and check every file against the manifest.

    Args:
        digest: If given, the sha256 that the manifest must have.

    Raises:
        BundleError: A file is missing, unlisted, truncated or changed, or the bundle has another
            format.
    """
    if not (folder / MANIFEST).is_file():
        raise BundleError(
            f"{folder} is not a bundle: it contains no {MANIFEST}.",
            remedy="Give the folder of a bundle, which `tidemill train` writes.",
        )
    found = file_digest(folder / MANIFEST)
    if digest is not None and found != digest:
        raise BundleError(
            f"{folder / MANIFEST} has the sha256 {found}, but {digest} was expected.",
            remedy=COPY_AGAIN,
        )
    manifest = _decode(folder / MANIFEST, Manifest)
    if manifest.format != FORMAT:
        raise BundleError(
            f"{folder} has bundle format {manifest.format}, but this version of Tidemill reads"
            f" format {FORMAT}.",
            remedy="Train the model again, or install the version of Tidemill that wrote it.",
        )
    _check_files(folder, manifest)
    return Bundle(
        path=folder,
        digest=found,
        manifest=manifest,
        signature=_decode(folder / SIGNATURE, Signature),
    )


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_files(folder: Path, manifest: Manifest) -> None:
    needed = {SIGNATURE, PROFILE, EXAMPLE, MODEL_FILES[manifest.runtime]}
    if missing := needed - manifest.files.keys():
        raise BundleError(
            f"{folder / MANIFEST} does not list {', '.join(sorted(missing))}.", remedy=COPY_AGAIN
        )
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    if extra := present - manifest.files.keys():
        raise BundleError(
            f"{folder} contains files that its manifest does not list: {', '.join(sorted(extra))}.",
            remedy="Delete them, or copy the bundle again from where it was trained.",
        )
    for name, entry in manifest.files.items():
        if "/" in name or name not in present:
            raise BundleError(
                f"{folder} lacks {name}, which its manifest lists.", remedy=COPY_AGAIN
            )
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{path} is not a regular file.", remedy=COPY_AGAIN)
        if path.stat().st_size != entry.size or file_digest(path) != entry.sha256:
            raise BundleError(
                f"{path} does not match the manifest: its size or sha256 is different.",
                remedy=COPY_AGAIN,
            )


def _decode(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read: {error}", remedy=COPY_AGAIN) from error

"""The bundle: the folder that is deployed, and the only thing that passes from training to serving.

    manifest.json    what is in it: runtime, inputs, outputs, versions, metrics, sha256 of each file
    signature.json   what it takes and answers (`tidemill.signature.Signature`)
    model.onnx       the compiled model; model.skops for the native fallback; model.tar, an MLflow
                     model's folder, for what only its own process can run
    profile.json     what the training data looked like: the reference for drift
    example.json     rows with the answers the model gave in training: checked again before traffic

A bundle is identified by its digest, the sha256 of manifest.json. Because the manifest carries the
hash of every other file, one digest vouches for the whole folder. The data plane unpickles nothing
of it; what is in model.tar is run by another process, and only where the operator said to trust it.
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
MODEL_FILES = {"onnx": "model.onnx", "skops": "model.skops", "pyfunc": "model.tar"}


class FileEntry(msgspec.Struct, frozen=True):
    sha256: str
    size: int


class ModelInput(msgspec.Struct, frozen=True):
    """One input of the compiled model and the columns that fill it, as a [rows, columns] matrix.

    A tensor model has one ModelInput with no columns; it takes [rows, *shape].
    `missing` is the text fed for null in a string input; null in a numeric input is NaN.
    """

    name: str
    dtype: Literal["float32", "float64", "int64", "bool", "string"]
    columns: tuple[str, ...] = ()
    missing: str | None = None


class ModelOutputs(msgspec.Struct, frozen=True):
    """The names of the compiled model's outputs.

    A classifier gives `probabilities` [rows, labels], or `label` [rows] (an index into the
    signature's labels, int64), or both; with probabilities alone, the label is their argmax.
    A regressor gives `value` [rows] or [rows, 1].
    """

    label: str | None = None
    probabilities: str | None = None
    value: str | None = None


class Parity(msgspec.Struct, frozen=True):
    """How close the compiled model came to the native one on held-out rows."""

    rows: int
    labels_equal: bool
    max_relative_error: float


class Manifest(msgspec.Struct, frozen=True):
    format: int
    model: str
    created: str  # ISO 8601, UTC
    runtime: Literal["onnx", "skops", "pyfunc"]
    files: dict[str, FileEntry]
    inputs: tuple[ModelInput, ...]
    outputs: ModelOutputs
    parity: Parity | None = None
    fallback_reason: str | None = None  # why the native fallback is used, where it is
    trusted_types: tuple[str, ...] = ()  # what the native fallback asks the server to trust
    versions: dict[str, str] = {}  # packages the model was made with
    metrics: dict[str, float] = {}  # on held-out rows, at training
    source: dict[str, str] = {}  # run_id, candidate, data_fingerprint, git_commit


class RowPrediction(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the model answered for one row; probabilities in the order of the labels."""

    prediction: Label
    probabilities: tuple[float, ...] | None = None


class Example(msgspec.Struct, frozen=True):
    """Rows in the order of the signature's inputs (a tensor flat), and their answers."""

    rows: tuple[tuple[Value, ...], ...]
    answers: tuple[RowPrediction, ...]


class Bundle(msgspec.Struct, frozen=True):
    """A bundle on disk whose files were found to be what its manifest says."""

    path: Path
    digest: str
    manifest: Manifest
    signature: Signature

    @property
    def model_path(self) -> Path:
        return self.path / MODEL_FILES[self.manifest.runtime]

    def example(self) -> Example:
        return _decode(self.path / EXAMPLE, Example)

    def profile(self) -> dict[str, Any]:
        return _decode(self.path / PROFILE, dict[str, Any])


def seal(folder: Path, manifest: Manifest) -> Bundle:
    """Hash every file in `folder`, write the manifest with the hashes, and read the result back."""
    entries = {
        path.name: FileEntry(sha256=file_digest(path), size=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    sealed = msgspec.structs.replace(manifest, files=entries)
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(sealed), indent=2))
    return read(folder)


def read(folder: Path, *, digest: str | None = None) -> Bundle:
    """The bundle in `folder`, with every file checked against the manifest.

    Args:
        digest: When given, the manifest itself must have this sha256.

    Raises:
        BundleError: A file is missing, added, truncated or changed, or the format is another.
    """
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"{folder} holds no {MANIFEST}; it is not a bundle.")
    found = file_digest(folder / MANIFEST)
    if digest is not None and found != digest:
        raise BundleError(f"{folder / MANIFEST} has sha256 {found}, expected {digest}.")
    manifest = _decode(folder / MANIFEST, Manifest)
    if manifest.format != FORMAT:
        raise BundleError(
            f"{folder} has bundle format {manifest.format}; this Tidemill reads {FORMAT}."
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
        raise BundleError(f"The manifest in {folder} does not list {', '.join(sorted(missing))}.")
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    if extra := present - manifest.files.keys():
        raise BundleError(f"{folder} holds files its manifest does not list: {sorted(extra)}.")
    for name, entry in manifest.files.items():
        if "/" in name or name not in present:
            raise BundleError(f"{folder} lacks {name}, which its manifest lists.")
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{path} is not an ordinary file.")
        if path.stat().st_size != entry.size or file_digest(path) != entry.sha256:
            raise BundleError(f"{path} is not what the manifest says: its size or sha256 differ.")


def _decode(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error

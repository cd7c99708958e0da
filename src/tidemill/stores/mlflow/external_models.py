"""MLflow models not trained by Tidemill: downloaded, and described without loading them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill.errors import ExportError, NotFoundError
from tidemill.stores.mlflow.connection import MlflowConnection, without_warnings
from tidemill.stores.mlflow.versions import ModelVersion

MODEL_FILE = "MLmodel"
EXAMPLE_ROWS = 200
LOGGED = "models:/"


@dataclass(frozen=True)
class ExternalModel:
    """An MLflow model in a local folder; none of its code was run.

    Attributes:
        flavors: The entries of the MLmodel file for each flavour, by its name.
        inputs, outputs: The entries of its signature's schemas; None without one.
        example: Rows in the model's input format (a DataFrame, an array or a dict of arrays), if
            it has an input example.
        made_with: The version of MLflow that wrote it.
    """

    folder: Path
    flavors: Mapping[str, Mapping[str, Any]]
    inputs: list[dict[str, Any]] | None = None
    outputs: list[dict[str, Any]] | None = None
    example: Any = None
    made_with: str = ""


def fetch_model(connection: MlflowConnection, version: ModelVersion, into: Path) -> ExternalModel:
    """Download a version's MLflow model into the folder `into`.

    Raises:
        NotFoundError: The version has no MLflow model.
        ExportError: The model cannot be read.
    """
    into.mkdir(parents=True, exist_ok=True)
    try:
        folder = connection.call(lambda _: _download(connection, version, into))
    except NotFoundError as error:
        raise NotFoundError(
            f"Version {version.number} of '{version.name}' has neither a bundle nor a model: "
            f"{error.detail}"
        ) from error
    return read_model_folder(Path(folder))


def _download(connection: MlflowConnection, version: ModelVersion, into: Path) -> str:
    """Download the model from the URI in the registry and return its folder.

    A `models:/` URI is resolved here: MLflow would look it up in the registry of its environment
    variables, which may be another one.
    """
    from mlflow.artifacts import download_artifacts

    client = connection.client
    uri = client.get_model_version_download_uri(version.name, version.number)
    if uri.startswith(LOGGED):
        uri = client.get_logged_model(uri.removeprefix(LOGGED)).artifact_location
    found: str = download_artifacts(
        artifact_uri=uri, dst_path=str(into), tracking_uri=connection.tracking_uri
    )
    return found


def read_model_folder(folder: Path) -> ExternalModel:
    """Describe the MLflow model in a folder without running its code or unpickling anything.

    Raises:
        NotFoundError: The folder has no MLmodel file.
        ExportError: The MLmodel file cannot be read.
    """
    import yaml  # type: ignore[import-untyped]

    path = folder / MODEL_FILE
    if not path.is_file():
        raise NotFoundError(f"{folder.name} has no {MODEL_FILE}; it is not an MLflow model.")
    try:
        found = yaml.safe_load(path.read_text())
        signature = found.get("signature") or {}
        inputs, outputs = (_schema(signature.get(part)) for part in ("inputs", "outputs"))
        flavors = dict(found["flavors"])
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ExportError(f"The model's {MODEL_FILE} cannot be read: {error}") from error
    return ExternalModel(
        folder, flavors, inputs, outputs, _example(folder), str(found.get("mlflow_version") or "")
    )


def _schema(text: str | None) -> list[dict[str, Any]] | None:
    return json.loads(text) if text else None


def _example(folder: Path) -> Any:
    """Return the first rows of the input example; None if there is none that can be read."""
    from mlflow.models import Model

    try:
        with without_warnings():
            found = Model.load(str(folder)).load_input_example(str(folder))
    except Exception:  # a broken example is no reason to reject the model
        return None
    if isinstance(found, dict) or found is None or not hasattr(found, "__getitem__"):
        return found
    return found[:EXAMPLE_ROWS]

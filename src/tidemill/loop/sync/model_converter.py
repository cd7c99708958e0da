"""Converts external MLflow models, registered without a bundle, into bundles.

In order of preference: ONNX as it is; a network that torch exports, or an estimator that compiles
(scikit-learn, XGBoost, LightGBM, CatBoost); a worker process that runs MLflow's `pyfunc`. Models
that have to be unpickled, or run as they are, require an operator who trusts the registry. If no
form works, the error lists what was tried and why it failed. See decisions 062 and 132.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidemill.bundle import Bundle
from tidemill.errors import ExportError, TidemillError
from tidemill.loop.sync.bundle_fetcher import REGISTERED, registration
from tidemill.loop.sync.estimators import TRUST, load_estimator, signature_of
from tidemill.loop.sync.model_signature import required_inputs, signed_inputs, target_name
from tidemill.loop.sync.networks import compile_network
from tidemill.loop.sync.onnx_models import compile_onnx
from tidemill.loop.sync.pyfunc_models import package_pyfunc
from tidemill.signature import Label, Signature
from tidemill.steps.export.bundle_writer import BundleMetadata, make_example, write_bundle
from tidemill.steps.export.compile import Compiled, compile_model, load_compiled
from tidemill.steps.export.external_samples import sample_rows
from tidemill.steps.export.external_signature import (
    LABELS_REMEDY,
    labels_from_tag,
)
from tidemill.steps.export.model_io import (
    InputRows,
    ModelPredictions,
    predict_in_batches,
)
from tidemill.stores.mlflow.external_models import ExternalModel, fetch_model
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import ModelVersion

logger = logging.getLogger(__name__)

START_SECONDS = 120.0
ANSWER_SECONDS = 60.0


@dataclass(frozen=True)
class ConvertedModel:
    """A model that can be served, with sample rows and its predictions for them."""

    compiled: Compiled
    signature: Signature
    rows: InputRows
    predictions: ModelPredictions


class ModelConverter:
    """Creates bundles from MLflow models, in the calling process.

    Args:
        trust: Whether models may be unpickled and their code run.
    """

    def __init__(self, registry: Registry, *, trust: bool = False) -> None:
        self._registry = registry
        self._trust = trust

    def __call__(self, version: ModelVersion, into: Path) -> Bundle:
        """Create the version's bundle, in a folder inside `into`.

        Raises:
            NotFoundError: The version has no model.
            ExportError: The model cannot be served; lists what was tried.
        """
        model = fetch_model(self._registry.connection, version, into / "mlflow")
        folder = into / "bundle"
        folder.mkdir()
        converted = convert(model, folder, labels_from_tag(version.tags), trust=self._trust)
        logger.info(
            "%s: version %s has no bundle; it is served by %s",
            version.name, version.number, converted.compiled.runtime,
        )  # fmt: skip
        return write_bundle(
            folder,
            converted.compiled,
            converted.signature,
            empty_profile(),
            make_example(converted.rows, converted.signature, converted.predictions),
            _metadata(version, model),
        )


def convert(
    model: ExternalModel, folder: Path, tagged: tuple[Label, ...] = (), *, trust: bool = False
) -> ConvertedModel:
    """Convert an external model into the best form that it can be served in.

    Args:
        folder: Where a model that is not converted is packed.
        tagged: The labels in the version's tag.

    Raises:
        ExportError: No form works; lists what was tried, with a remedy.
    """
    reasons: list[TidemillError] = []
    for attempt in (_as_onnx, _as_network, _as_estimator):
        try:
            return attempt(model, tagged, trust)
        except _NotApplicableError:
            continue
        except TidemillError as error:
            if error.remedy == LABELS_REMEDY:
                raise  # every other form would need the labels too
            reasons.append(error)
    if "python_function" in model.flavors and trust:
        try:
            return ConvertedModel(*package_pyfunc(model, folder, tagged))
        except TidemillError as error:
            reasons.append(error)
    elif "python_function" in model.flavors:
        detail = "Running the model as it is would run its author's code."
        reasons.append(ExportError(detail, remedy=TRUST))
    why = " ".join(dict.fromkeys(error.detail for error in reasons))
    remedy = next((e.remedy for e in reversed(reasons) if e.remedy), None)
    raise ExportError(
        why or f"No supported flavor among {', '.join(model.flavors)}.", remedy=remedy
    )


class _NotApplicableError(ExportError):
    """The model does not have this form."""


def _as_onnx(model: ExternalModel, tagged: tuple[Label, ...], trust: bool) -> ConvertedModel:
    if "onnx" not in model.flavors:
        raise _NotApplicableError("no ONNX")
    inputs = signed_inputs(model)
    path = model.folder / str(model.flavors["onnx"]["data"])
    return _with_predictions(*compile_onnx(path, inputs, tagged, target_name(model), model.example))


def _as_network(model: ExternalModel, tagged: tuple[Label, ...], trust: bool) -> ConvertedModel:
    if "pytorch" not in model.flavors:
        raise _NotApplicableError("no network")
    inputs = required_inputs(model)
    return _with_predictions(
        *compile_network(model, inputs, tagged, target_name(model), trust=trust)
    )


def _as_estimator(model: ExternalModel, tagged: tuple[Label, ...], trust: bool) -> ConvertedModel:
    if {"onnx", "pytorch"} & set(model.flavors) or set(model.flavors) <= {"python_function"}:
        raise _NotApplicableError("no estimator")
    estimator = load_estimator(model, trust=trust)
    signature = signature_of(model, estimator)
    rows = sample_rows(signature, model.example)
    return _with_predictions(compile_model(estimator, signature, rows), signature, rows)


def _with_predictions(compiled: Compiled, signature: Signature, rows: InputRows) -> ConvertedModel:
    predictions = predict_in_batches(
        load_compiled(compiled, signature), compiled.inputs, signature, rows
    )
    return ConvertedModel(compiled, signature, rows, predictions)


def empty_profile() -> dict[str, Any]:
    """The profile of unknown training data."""
    unknown: dict[str, Any] = {"output": None, "confidence": None, "holdout": None}
    return {"format": 1, "rows": 0, "columns": {}, **unknown}


def _metadata(version: ModelVersion, model: ExternalModel) -> BundleMetadata:
    flavors = ",".join(sorted(model.flavors))
    source = {REGISTERED: registration(version), "flavors": flavors, "run_id": version.run_id or ""}
    return BundleMetadata(
        version.name,
        versions={"mlflow": model.made_with} if model.made_with else {},
        source={name: text for name, text in source.items() if text},
        created=datetime.fromtimestamp(version.created, UTC).isoformat(timespec="seconds"),
    )

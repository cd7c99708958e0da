"""Bundles for versions that were registered without one: any MLflow model, as far as it goes.

In the order of what is best to serve: ONNX as it is; a network that torch exports, or an estimator
that compiles (scikit-learn, XGBoost, LightGBM, CatBoost); a worker that runs MLflow's `pyfunc`.
What has to be unpickled, or run as it is, needs an operator who trusts the registry. What was tried
and why it was not to be had stays with the refusal.
"""

from __future__ import annotations

import logging
import tarfile
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidemill.bundle import MODEL_FILES, SIGNATURE, Bundle, ModelOutputs, Parity
from tidemill.errors import ExportError, TidemillError, UnavailableError
from tidemill.loop.sync.bundle_sources import REGISTERED, identity_of
from tidemill.loop.sync.estimators import TRUST, load_estimator, signature_of
from tidemill.loop.sync.networks import compile_network
from tidemill.loop.sync.onnx_models import compile_onnx
from tidemill.loop.sync.pyfunc_supervisor import STOP_SECONDS, start_worker
from tidemill.processes import stop_process
from tidemill.serving.model.remote_runtime import WorkerConnection, read_output
from tidemill.signature import Label, Signature, Tensor
from tidemill.steps.export.bundle_writer import BundleMetadata, make_example, write_bundle
from tidemill.steps.export.compile import Compiled, compile_model, load_compiled
from tidemill.steps.export.external_samples import columns_with_missing, sample_rows
from tidemill.steps.export.external_signature import (
    LABELS_REMEDY,
    SIGNATURE_REMEDY,
    Inputs,
    input_layout,
    labels_from_output,
    labels_from_tag,
    parse_inputs,
)
from tidemill.steps.export.model_io import (
    InputRows,
    ModelPredictions,
    input_arrays,
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
    """A model that can be served, with rows it was tried on and its answers to them."""

    compiled: Compiled
    signature: Signature
    rows: InputRows
    answers: ModelPredictions


class ModelConverter:
    """Makes bundles out of MLflow models, in the process that calls it.

    Args:
        trust: Whether what is in the registry may be unpickled and run.
    """

    def __init__(self, registry: Registry, *, trust: bool = False) -> None:
        self._registry = registry
        self._trust = trust

    def __call__(self, version: ModelVersion, into: Path) -> Bundle:
        """The version's bundle, in a folder inside `into`.

        Raises:
            NotFoundError: There is no model behind the version.
            ExportError: It cannot be served; says all that was tried.
        """
        model = fetch_model(self._registry.connection, version, into / "mlflow")
        folder = into / "bundle"
        folder.mkdir()
        adopted = convert(model, folder, labels_from_tag(version.tags), trust=self._trust)
        logger.info(
            "%s: version %s has no bundle; it is served by %s",
            version.name, version.number, adopted.compiled.runtime,
        )  # fmt: skip
        return write_bundle(
            folder,
            adopted.compiled,
            adopted.signature,
            empty_profile(),
            make_example(adopted.rows, adopted.signature, adopted.answers),
            _made(version, model),
        )


def convert(
    model: ExternalModel, folder: Path, tagged: tuple[Label, ...] = (), *, trust: bool = False
) -> ConvertedModel:
    """The best form that a foreign model can be served in.

    Args:
        folder: Where a model that stays as it is gets packed into.
        tagged: The labels that the version's tag names.

    Raises:
        ExportError: There is none; says all that was tried, and what would help.
    """
    reasons: list[TidemillError] = []
    for attempt in (_as_onnx, _as_network, _as_estimator):
        try:
            return attempt(model, tagged, trust)
        except _NotApplicableError:
            continue
        except TidemillError as error:
            if error.remedy == LABELS_REMEDY:
                raise  # and so would every other form
            reasons.append(error)
    if "python_function" in model.flavors and trust:
        try:
            return _as_worker(model, folder, tagged)
        except TidemillError as error:
            reasons.append(error)
    elif "python_function" in model.flavors:
        what = "Running it as it is runs what its author wrote."
        reasons.append(ExportError(what, remedy=TRUST))
    why = " ".join(dict.fromkeys(error.detail for error in reasons))
    remedy = next((e.remedy for e in reversed(reasons) if e.remedy), None)
    raise ExportError(why or f"Nobody reads {', '.join(model.flavors)}.", remedy=remedy)


class _NotApplicableError(ExportError):
    pass


def _as_onnx(model: ExternalModel, tagged: tuple[Label, ...], trust: bool) -> ConvertedModel:
    if "onnx" not in model.flavors:
        raise _NotApplicableError("no ONNX")
    inputs = (
        parse_inputs(model.inputs, columns_with_missing(model.example)) if model.inputs else None
    )
    path = model.folder / str(model.flavors["onnx"]["data"])
    return _tried(*compile_onnx(path, inputs, tagged, _target(model), model.example))


def _as_network(model: ExternalModel, tagged: tuple[Label, ...], trust: bool) -> ConvertedModel:
    if "pytorch" not in model.flavors:
        raise _NotApplicableError("no network")
    inputs = _inputs(model)
    return _tried(*compile_network(model, inputs, tagged, _target(model), trust=trust))


def _as_estimator(model: ExternalModel, tagged: tuple[Label, ...], trust: bool) -> ConvertedModel:
    if {"onnx", "pytorch"} & set(model.flavors) or set(model.flavors) <= {"python_function"}:
        raise _NotApplicableError("no estimator")
    estimator = load_estimator(model, trust=trust)
    signature = signature_of(model, estimator)
    rows = sample_rows(signature, model.example)
    return _tried(compile_model(estimator, signature, rows), signature, rows)


def _tried(compiled: Compiled, signature: Signature, rows: InputRows) -> ConvertedModel:
    answers = predict_in_batches(
        load_compiled(compiled, signature), compiled.inputs, signature, rows
    )
    return ConvertedModel(compiled, signature, rows, answers)


def _as_worker(model: ExternalModel, folder: Path, tagged: tuple[Label, ...]) -> ConvertedModel:
    """The model as it is, asked once through a worker like the one that will serve it."""
    inputs = _inputs(model)
    draft = _signed(inputs, (), "prediction")
    rows = sample_rows(draft, model.example)
    output = _ask_once(model, folder, draft, rows)
    labels = labels_from_output(output, tagged)
    signature = _signed(inputs, labels, _target(model))
    _pack(model.folder, folder / MODEL_FILES["pyfunc"])
    likely = output.ndim == 2 and output.shape[1] > 1
    compiled = Compiled(
        "pyfunc",
        b"",
        input_layout(signature),
        ModelOutputs(
            label="label" if labels and not likely else None,
            probabilities="probabilities" if labels and likely else None,
            value=None if labels else "value",
        ),
        Parity(len(rows), True, 0.0),
        "MLflow's pyfunc runs it in a process of its own.",
    )
    return ConvertedModel(compiled, signature, rows, _answers(output, signature))


def _target(model: ExternalModel) -> str:
    return str((model.outputs or [{}])[0].get("name") or "prediction")


def _inputs(model: ExternalModel) -> Inputs:
    schema = model.inputs
    if not schema and model.example is not None:
        from mlflow.models import infer_signature

        schema = infer_signature(model.example).inputs.to_dict()
    if not schema:
        raise ExportError(
            "The model was logged without a signature and without an input example.",
            remedy=SIGNATURE_REMEDY,
        )
    return parse_inputs(schema, columns_with_missing(model.example))


def _signed(inputs: Inputs, labels: tuple[Label, ...], target: str) -> Signature:
    tensor = inputs if isinstance(inputs, Tensor) else None
    columns = inputs if not isinstance(inputs, Tensor) else ()
    task: Any = "classification" if labels else "regression"
    return Signature(task, target, columns, tensor, labels)


def _ask_once(model: ExternalModel, folder: Path, signature: Signature, rows: InputRows) -> Any:
    """What the model gives for rows.

    Raises:
        ExportError: It cannot be loaded, or fails on them.
    """
    (folder / SIGNATURE).write_bytes(msgspec.json.encode(signature))
    with tempfile.TemporaryDirectory(prefix="tidemill-") as scratch:
        socket = Path(scratch, "worker.sock")
        process = start_worker(folder, socket, model.folder)
        connection = WorkerConnection(socket, ANSWER_SECONDS)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ExportError(f"Its worker does not start (exit {process.returncode}).")
                time.sleep(0.05)
            return connection.run(input_arrays(rows, input_layout(signature)))
        except UnavailableError as error:
            raise ExportError(f"Its worker went away: {error.detail}") from error
        finally:
            connection.close()
            stop_process(process, STOP_SECONDS)


def _answers(output: Any, signature: Signature) -> ModelPredictions:
    labels, likely, values = read_output(output, len(output), signature.labels)
    if values is not None:
        return ModelPredictions(values)
    if labels is None and likely is not None:
        labels = likely.argmax(axis=1)
    assert labels is not None
    return ModelPredictions(np.array(signature.labels)[labels], labels, likely)


def _pack(model: Path, target: Path) -> None:
    """A folder as an archive that is the same whenever the folder is."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime = info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mode = 0o755 if info.isdir() else 0o644
        return info

    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(model.rglob("*")):
            name = path.relative_to(model).as_posix()
            archive.add(path, name, recursive=False, filter=plain)


def empty_profile() -> dict[str, Any]:
    """What is known of training data that nobody kept: nothing."""
    unknown: dict[str, Any] = {"output": None, "confidence": None, "holdout": None}
    return {"format": 1, "rows": 0, "columns": {}, **unknown}


def _made(version: ModelVersion, model: ExternalModel) -> BundleMetadata:
    flavors = ",".join(sorted(model.flavors))
    source = {REGISTERED: identity_of(version), "flavors": flavors, "run_id": version.run_id or ""}
    return BundleMetadata(
        version.name,
        versions={"mlflow": model.made_with} if model.made_with else {},
        source={name: text for name, text in source.items() if text},
        created=datetime.fromtimestamp(version.created, UTC).isoformat(timespec="seconds"),
    )

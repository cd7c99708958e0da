"""Exports external PyTorch networks to ONNX and compares the result with the network itself.

Loading a network may unpickle it, so this requires the operator's trust. Imports torch on use.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd

from tidemill.errors import ExportError
from tidemill.loop.sync.estimators import TRUST
from tidemill.loop.sync.model_signature import make_signature
from tidemill.loop.sync.onnx_models import compile_onnx
from tidemill.signature import Label, Signature, Tensor
from tidemill.steps.export import parity
from tidemill.steps.export.compile import Compiled, load_compiled
from tidemill.steps.export.external_samples import sample_rows
from tidemill.steps.export.external_signature import LABELS_REMEDY, Inputs, are_probabilities
from tidemill.steps.export.model_io import InputRows, ModelPredictions, predict_in_batches
from tidemill.stores.mlflow.connection import without_warnings
from tidemill.stores.mlflow.external_models import ExternalModel

INSTALL = "pip install 'tidemill[torch]', and the other packages that the network needs."


def compile_network(
    model: ExternalModel, inputs: Inputs, tagged: tuple[Label, ...], target: str, *, trust: bool
) -> tuple[Compiled, Signature, InputRows]:
    """The exported network, its signature, and the rows that it was compared on.

    If a network returns one number per label of the version's tag, these are scores. Softmax turns
    them into probabilities, unless they already are.

    Raises:
        ExportError: Loading requires trust or torch, torch cannot export the network, or the ONNX
            model predicts something else.
    """
    network = _load(model, trust)
    rows = sample_rows(make_signature(inputs, (), target), model.example)
    scores = _run(network, rows)
    if scores.ndim == 2 and scores.shape[1] > 1 and not are_probabilities(scores):
        if len(tagged) != scores.shape[1]:
            raise ExportError(
                f"The PyTorch model returns {scores.shape[1]} scores per row, and no tag lists as"
                " many labels.",
                remedy=LABELS_REMEDY,
            )
        layers = importlib.import_module("torch").nn
        network = layers.Sequential(network, layers.Softmax(1))
    compiled, signature, rows = _exported(network, model, inputs, tagged, target)
    own = _answers(_run(network, rows), signature)
    found = predict_in_batches(load_compiled(compiled, signature), compiled.inputs, signature, rows)
    differences = parity.compare_predictions(own, found)
    if not parity.within_tolerance(differences):
        raise ExportError("The PyTorch model predicts something else in ONNX than in PyTorch.")
    return compiled, signature, rows


def _load(model: ExternalModel, trust: bool) -> Any:
    """Load the network as MLflow does: in evaluation mode, on the CPU."""
    if not trust:
        what = "The PyTorch model is pickled, and unpickling it would run its author's code."
        raise ExportError(what, remedy=TRUST)
    try:
        importlib.import_module("torch")
    except ImportError as error:
        what = "The PyTorch model cannot be loaded: torch is not installed."
        raise ExportError(what, remedy=INSTALL) from error
    try:
        with without_warnings():
            mlflow_pytorch = importlib.import_module("mlflow.pytorch")
            return mlflow_pytorch.load_model(str(model.folder), map_location="cpu")
    except Exception as error:  # unpickling may fail in any way
        remedy = INSTALL if isinstance(error, ImportError) else None
        what = f"The PyTorch model cannot be loaded: {type(error).__name__}: {error}"
        raise ExportError(what, remedy=remedy) from error


def _run(network: Any, rows: InputRows) -> Any:
    """The network's own output, with inputs converted as MLflow's pyfunc does."""
    torch = importlib.import_module("torch")
    given = rows.to_numpy(np.float32) if isinstance(rows, pd.DataFrame) else rows
    try:
        with torch.no_grad(), without_warnings():
            found = network(torch.from_numpy(np.ascontiguousarray(given)))
        return np.asarray(found.numpy())
    except Exception as error:  # a network may fail in any way
        what = f"The PyTorch model fails on rows that fit it: {type(error).__name__}: {error}"
        raise ExportError(what) from error


def _exported(
    network: Any, model: ExternalModel, inputs: Inputs, tagged: tuple[Label, ...], target: str
) -> tuple[Compiled, Signature, InputRows]:
    from tidemill.steps.convert.torch_export import export_network

    shape = inputs.shape if isinstance(inputs, Tensor) else (len(inputs),)
    with tempfile.TemporaryDirectory(prefix="tidemill-") as scratch:
        path = Path(scratch, "network.onnx")
        with without_warnings():
            onnx.save(export_network(network, shape), str(path))
        return compile_onnx(path, inputs, tagged, target, model.example)


def _answers(found: Any, signature: Signature) -> ModelPredictions:
    if not signature.labels:
        return ModelPredictions(found.reshape(-1).astype(np.float64))
    labels = found.argmax(axis=1)
    return ModelPredictions(np.array(signature.labels)[labels], labels, found.astype(np.float64))

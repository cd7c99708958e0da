"""PyTorch networks that others logged: exported to ONNX, and compared with the network itself.

Loading one may unpickle it, so this needs the operator's trust. Imports torch when asked for one.
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
from tidemill.loop.sync.onnx_models import compile_onnx
from tidemill.signature import Label, Signature, Tensor
from tidemill.steps.export import parity
from tidemill.steps.export.compile import Compiled, load_compiled
from tidemill.steps.export.external_samples import sample_rows
from tidemill.steps.export.external_signature import LABELS_REMEDY, Inputs, are_probabilities
from tidemill.steps.export.model_io import InputRows, ModelPredictions, predict_in_batches
from tidemill.stores.mlflow.connection import without_warnings
from tidemill.stores.mlflow.external_models import ExternalModel

INSTALL = "pip install 'tidemill[torch]', and what else the network was made with."


def compile_network(
    model: ExternalModel, inputs: Inputs, tagged: tuple[Label, ...], target: str, *, trust: bool
) -> tuple[Compiled, Signature, InputRows]:
    """The network as a bundle holds it, its signature, and the rows that it was compared on.

    A network that gives a number for each label of the tag gives scores: softmax makes
    probabilities of them, unless they are some already.

    Raises:
        ExportError: It needs trust, or torch; torch cannot export it; or ONNX answers otherwise.
    """
    network = _loaded(model, trust)
    rows = sample_rows(_unlabelled(inputs, target), model.example)
    wide = _asked(network, rows)
    if wide.ndim == 2 and wide.shape[1] > 1 and not are_probabilities(wide):
        if len(tagged) != wide.shape[1]:
            raise ExportError(
                f"The PyTorch model gives {wide.shape[1]} scores a row, and no tag names as many"
                " labels.",
                remedy=LABELS_REMEDY,
            )
        layers = importlib.import_module("torch").nn
        network = layers.Sequential(network, layers.Softmax(1))
    compiled, signature, rows = _exported(network, model, inputs, tagged, target)
    own = _answers(_asked(network, rows), signature)
    found = predict_in_batches(load_compiled(compiled, signature), compiled.inputs, signature, rows)
    differences = parity.compare_predictions(own, found)
    if not parity.within_tolerance(differences):
        raise ExportError("The PyTorch model answers otherwise in ONNX.")
    return compiled, signature, rows


def _loaded(model: ExternalModel, trust: bool) -> Any:
    """The network, as MLflow loads it: in evaluation mode, on the CPU."""
    if not trust:
        what = "The PyTorch model was pickled, and unpickling runs what its author wrote."
        raise ExportError(what, remedy=TRUST)
    try:
        importlib.import_module("torch")
    except ImportError as error:
        what = "The PyTorch model cannot be loaded: torch is not installed here."
        raise ExportError(what, remedy=INSTALL) from error
    try:
        with without_warnings():
            mlflow_pytorch = importlib.import_module("mlflow.pytorch")
            return mlflow_pytorch.load_model(str(model.folder), map_location="cpu")
    except Exception as error:  # unpickling may fail in any way
        remedy = INSTALL if isinstance(error, ImportError) else None
        what = f"The PyTorch model cannot be loaded: {type(error).__name__}: {error}"
        raise ExportError(what, remedy=remedy) from error


def _unlabelled(inputs: Inputs, target: str) -> Signature:
    if isinstance(inputs, Tensor):
        return Signature("regression", target, tensor=inputs)
    return Signature("regression", target, inputs)


def _asked(network: Any, rows: InputRows) -> Any:
    """What the network itself answers, fed as MLflow's pyfunc feeds it."""
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

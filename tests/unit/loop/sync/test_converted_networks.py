"""External PyTorch networks: converted to ONNX if torch can export them, else a clear error."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tidemill.errors import ExportError
from tidemill.loop.sync.model_converter import ConvertedModel, convert
from tidemill.stores.mlflow.external_models import ExternalModel, read_model_folder

pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow and torch, when logging
RNG = np.random.default_rng(3)
TABLE = pd.DataFrame(RNG.normal(size=(40, 3)).astype("float32"), columns=["a", "b", "c"])
PICTURES = RNG.normal(size=(20, 2, 4)).astype("float32")


def logged(network: Any, example: Any, folder: Path, **options: Any) -> ExternalModel:
    """The network as MLflow saves it, with its predictions as the signature's outputs."""
    import mlflow.pytorch
    import torch
    from mlflow.models import infer_signature

    given = example.to_numpy() if isinstance(example, pd.DataFrame) else example
    answers = network(torch.from_numpy(given)).detach().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pytorch.save_model(
            network.eval(), str(folder / "model"), signature=infer_signature(example, answers),
            pip_requirements=[], serialization_format="pickle", **options,
        )  # fmt: skip
    return read_model_folder(folder / "model")


def layers(*sizes: int) -> list[Any]:
    import torch

    torch.manual_seed(1)
    pairs = itertools.pairwise(sizes)
    return [layer for a, b in pairs for layer in (torch.nn.Linear(a, b), torch.nn.Tanh())][:-1]


def pyfunc_answers(model: ExternalModel, rows: Any) -> Any:
    import mlflow.pyfunc

    return np.asarray(mlflow.pyfunc.load_model(str(model.folder)).predict(rows))


def own_rows(made: ConvertedModel) -> Any:
    rows = made.rows
    return rows.astype("float32") if isinstance(rows, pd.DataFrame) else rows


@pytest.mark.slow
def test_a_network_of_columns_predicts_the_same_as_pyfunc(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra 'torch'")
    model = logged(torch.nn.Sequential(*layers(3, 8, 1)), TABLE, tmp_path)
    with pytest.raises(ExportError, match=r"pickled.*--trust"):
        convert(model, tmp_path)
    made = convert(model, tmp_path, trust=True)
    assert (made.compiled.runtime, made.signature.task) == ("onnx", "regression")
    assert made.signature.names == ("a", "b", "c")
    expected = pyfunc_answers(model, own_rows(made)).reshape(-1)
    np.testing.assert_allclose(made.predictions.predictions, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_network_of_tensors_with_softmax_is_a_classifier(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra 'torch'")
    network = torch.nn.Sequential(torch.nn.Flatten(), *layers(8, 6, 3), torch.nn.Softmax(1))
    model = logged(network, PICTURES, tmp_path)
    made = convert(model, tmp_path, trust=True)
    assert made.compiled.runtime == "onnx"
    assert made.signature.labels == (0, 1, 2)
    assert made.signature.tensor is not None
    assert made.signature.tensor.shape == (2, 4)
    expected = pyfunc_answers(model, made.rows)
    np.testing.assert_allclose(made.predictions.probabilities, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_scores_become_probabilities_of_the_tags_labels(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra 'torch'")
    model = logged(torch.nn.Sequential(*layers(3, 5, 2)), TABLE, tmp_path)
    with pytest.raises(ExportError, match=r"2 scores per row.*tidemill\.labels"):
        convert(model, tmp_path, trust=True)
    made = convert(model, tmp_path, ("stays", "leaves"), trust=True)
    assert made.compiled.runtime == "onnx"
    scores = pyfunc_answers(model, own_rows(made))
    assert made.predictions.probabilities is not None
    np.testing.assert_allclose(made.predictions.probabilities.sum(axis=1), 1.0, atol=1e-6)
    expected = np.array(["stays", "leaves"])[scores.argmax(axis=1)]
    assert (made.predictions.predictions == expected).all()


@pytest.mark.slow
def test_a_network_that_torch_cannot_export_runs_in_pyfunc(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra 'torch'")

    class Odd(torch.nn.Module):  # type: ignore[misc]
        """Leaves torch on its way, which no exporter follows: tracing makes a constant of it."""

        def forward(self, x: Any) -> Any:
            return torch.from_numpy(np.sort(x.numpy(), axis=1)[:, -1:].copy())

    model = logged(Odd(), TABLE, tmp_path)
    made = convert(model, tmp_path, trust=True)
    assert made.compiled.runtime == "pyfunc"
    expected = own_rows(made).to_numpy().max(axis=1)
    np.testing.assert_allclose(made.predictions.predictions, expected, rtol=1e-6)


def test_without_torch_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    real = importlib.import_module

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "torch":
            raise ImportError("No module named 'torch'")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    (tmp_path / "model").mkdir()
    schema = [{"type": "double", "name": "a", "required": True}]
    model = ExternalModel(tmp_path / "model", {"pytorch": {"model_data": "data"}}, schema)
    with pytest.raises(ExportError, match=r"torch is not installed.*tidemill\[torch\]"):
        convert(model, tmp_path, trust=True)

"""A PyTorch network is exported with its softmax and served without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exporting a network needs the extra 'torch'")
skorch = pytest.importorskip("skorch", reason="exporting a network needs the extra 'torch'")
pytest.importorskip("onnxscript", reason="exporting a network needs the extra 'torch'")

from tidemill.bundle import Bundle  # noqa: E402
from tidemill.errors import ExportError  # noqa: E402
from tidemill.project import Candidate, Project  # noqa: E402
from tidemill.serving.model.runtime import load_runtime  # noqa: E402
from tidemill.signature import Tensor  # noqa: E402
from tidemill.steps.data.preprocessing import build_pipeline  # noqa: E402
from tidemill.steps.data.signature_inference import infer_signature  # noqa: E402
from tidemill.steps.export.bundle_writer import BundleMetadata, HeldOutRows, export_bundle  # noqa: E402
from tidemill.steps.export.compile import compile_model  # noqa: E402

IMAGE = Tensor("image", (1, 8, 8))


class Small(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3),
            torch.nn.BatchNorm2d(4),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Dropout(0.5),
            torch.nn.Linear(36, outputs),
        )

    def forward(self, x: Any) -> Any:
        return self.layers(x)


class Flat(Small):
    def forward(self, x: Any) -> Any:
        return super().forward(x)[:, 0]


def images(rows: int = 60) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    X = rng.random((rows, *IMAGE.shape)).astype(np.float32)
    return X, np.arange(rows) % 3


def learned(net: Any, y: Any, task: Any = "classification") -> tuple[Any, Any, Any]:
    X, _ = images()
    torch.manual_seed(0)
    project = Project("n", lambda: None, "y", [Candidate("c", object)], tensor=IMAGE)  # type: ignore[arg-type,return-value]
    model = build_pipeline(net, X, project).fit(X, y)
    return model, infer_signature(X, y, task, project), X


def classifier(**settings: Any) -> Any:
    return skorch.NeuralNetClassifier(
        Small, criterion=torch.nn.CrossEntropyLoss, max_epochs=2, train_split=None, verbose=0,
        **settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Any, Any]:
    model, signature, X = learned(classifier(), images()[1])
    folder = tmp_path_factory.mktemp("network") / "b"
    made = export_bundle(
        model, signature, X, HeldOutRows(X, images()[1]), folder, BundleMetadata("n")
    )
    return made, model, X


def test_a_network_is_compiled_with_its_softmax(exported: tuple[Bundle, Any, Any]) -> None:
    made, model, X = exported
    assert made.manifest.runtime == "onnx"
    [entry] = made.manifest.inputs
    assert (entry.name, entry.dtype, entry.columns) == ("image", "float32", ())
    runtime = load_runtime(made)
    for rows in (X, X[:1], X[:7]):
        likely = runtime.run([rows])[1]
        assert likely is not None
        np.testing.assert_allclose(likely, model.predict_proba(rows), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(likely.sum(axis=1), 1, rtol=1e-6)


def test_a_network_is_served_without_torch(exported: tuple[Bundle, Any, Any]) -> None:
    made = exported[0]
    code = (
        "import sys, pathlib, numpy; from tidemill import bundle;"
        "from tidemill.serving.model.runtime import load_runtime;"
        "held = bundle.read(pathlib.Path(sys.argv[1]));"
        "load_runtime(held).run([numpy.zeros((1, 1, 8, 8), numpy.float32)]);"
        "print([m for m in ('torch', 'skorch', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(made.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_an_example_contains_the_flattened_tensor(exported: tuple[Bundle, Any, Any]) -> None:
    made, _, X = exported
    example = made.example()
    assert len(example.rows[0]) == IMAGE.size
    np.testing.assert_array_equal(np.float32(example.rows[0]), X[0].ravel())


def test_a_network_for_two_classes_keeps_its_threshold() -> None:
    net = skorch.NeuralNetBinaryClassifier(
        Flat, module__outputs=1, max_epochs=1, train_split=None, verbose=0, threshold=0.45
    )
    model, signature, X = learned(net, (images()[1] == 0).astype(np.float32))
    compiled = compile_model(model, signature, X)
    assert (compiled.runtime, compiled.outputs.label) == ("onnx", "label")


def test_a_regression_network_predicts_values() -> None:
    net = skorch.NeuralNetRegressor(
        Small, module__outputs=1, max_epochs=1, train_split=None, verbose=0
    )
    y = np.random.default_rng(0).normal(size=(60, 1)).astype(np.float32)
    model, signature, X = learned(net, y, "regression")
    assert compile_model(model, signature, X).outputs.value == "value"


def test_labels_that_a_network_cannot_predict_are_refused() -> None:
    model, signature, X = learned(classifier(classes=["a", "b", "c"]), images()[1])
    with pytest.raises(ExportError, match="labels 0, 1, 2"):
        compile_model(model, signature, X)

"""Small real bundles on a shelf, and servers that serve them, for the data plane's tests."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tidemill import bundle as bundles
from tidemill import keyring
from tidemill.bundle import Answer, Bundle, Example, Manifest, ModelInput, ModelOutputs
from tidemill.serving import shelf as shelves
from tidemill.serving.shelf import Placed, ShelfState
from tidemill.signature import Column, Signature, Tensor

FLOATS = tuple(f"mean measure {i}" for i in range(6))


def write_bundle(
    folder: Path, signature: Signature, inputs: Sequence[ModelInput], outputs: ModelOutputs,
    model: bytes, example: Example,
) -> Bundle:  # fmt: skip
    """A sealed bundle around an ONNX model."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model)
    (folder / "signature.json").write_bytes(bundles.msgspec.json.encode(signature))
    (folder / "profile.json").write_bytes(b"{}")
    (folder / "example.json").write_bytes(bundles.msgspec.json.encode(example))
    manifest = Manifest(
        format=bundles.FORMAT,
        model="test",
        created="2025-01-01T00:00:00Z",
        runtime="onnx",
        files={},
        inputs=tuple(inputs),
        outputs=outputs,
    )
    return bundles.seal(folder, manifest)


@functools.cache
def _classifier_model(seed: int) -> tuple[bytes, np.ndarray, Any]:
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    random = np.random.default_rng(seed)
    rows = random.normal(10, 3, (200, len(FLOATS))).astype(np.float32)
    labels = (rows[:, 0] + rows[:, 1] > 20).astype(int) + (rows[:, 2] > 12)
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, labels)
    model = to_onnx(fitted, rows[:1], options={"zipmap": False}, target_opset=17)
    return model.SerializeToString(), rows, fitted


def classifier(folder: Path, seed: int = 0) -> Bundle:
    """Three classes out of six numbers: a scaler and a logistic regression."""
    model, rows, fitted = _classifier_model(seed)
    labels = ("low", "mid", 'h"igh %')
    signature = Signature(
        "classification", "level", tuple(Column(n, "number") for n in FLOATS), labels=labels
    )
    probabilities = fitted.predict_proba(rows[:4])
    answers = tuple(Answer(labels[int(p.argmax())], tuple(map(float, p))) for p in probabilities)
    example = Example(tuple(tuple(map(float, r)) for r in rows[:4]), answers)
    inputs = [ModelInput("X", "float32", FLOATS)]
    outputs = ModelOutputs(label="label", probabilities="probabilities")
    return write_bundle(folder, signature, inputs, outputs, model, example)


def regressor(folder: Path) -> Bundle:
    """A mixed table: a number, a whole number that may be missing, a switch and a text."""
    from onnx import TensorProto, helper

    def info(name: str, kind: int, width: int) -> Any:
        return helper.make_tensor_value_info(name, kind, [None, width])

    nodes = [
        helper.make_node("IsNaN", ["n"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "n"], ["known"]),
        helper.make_node("ReduceSum", ["known", "axis"], ["sum"], keepdims=1),
        helper.make_node(
            "LabelEncoder", ["t"], ["code"], domain="ai.onnx.ml", keys_strings=["north", "south"],
            values_floats=[100.0, 200.0], default_float=-1.0,
        ),
        helper.make_node("Cast", ["code"], ["code64"], to=TensorProto.DOUBLE),
        helper.make_node("Add", ["sum", "code64"], ["value"]),
    ]  # fmt: skip
    constants = [
        helper.make_tensor("zero", TensorProto.DOUBLE, [], [0.0]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
    ]
    graph = helper.make_graph(
        nodes, "sum", [info("n", TensorProto.DOUBLE, 3), info("t", TensorProto.STRING, 1)],
        [info("value", TensorProto.DOUBLE, 1)], constants,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    signature = Signature(
        "regression",
        "price",
        (
            Column("area", "number"),
            Column("side", "text", categories=("north", "south")),
            Column("rooms", "integer", nullable=True),
            Column("garden", "boolean"),
        ),
    )
    inputs = [
        ModelInput("n", "float64", ("area", "rooms", "garden")),
        ModelInput("t", "string", ("side",)),
    ]
    example = Example(
        ((10.5, "north", 3, True), (2.0, "south", None, False)), (Answer(114.5), Answer(202.0))
    )
    return write_bundle(folder, signature, inputs, ModelOutputs(value="value"), model, example)


def pictures(folder: Path) -> Bundle:
    """A tensor model: which quarter of a 4x4 picture is the brightest."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Softmax", ["flat"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "quarter",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [None, 1, 4, 4])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 4])],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    signature = Signature(
        "classification", "quarter", tensor=Tensor("image", (1, 4, 4)), labels=(0, 1, 2, 3)
    )
    row = [0.0] * 16
    row[10] = row[11] = row[14] = row[15] = 1.0
    odds = np.exp([0.0, 0.0, 0.0, 1.0])
    answer = Answer(3, tuple(map(float, odds / odds.sum())))
    return write_bundle(
        folder,
        signature,
        [ModelInput("image", "float32")],
        ModelOutputs(probabilities="probabilities"),
        model,
        Example((tuple(row),), (answer,)),
    )


MAKERS: dict[str, Callable[[Path], Bundle]] = {
    "classifier": classifier,
    "regressor": regressor,
    "pictures": pictures,
}


def put(shelf: Path, name: str, version: str, made: Bundle) -> Placed:
    return shelves.place(shelf, name, version, made.path, made.digest)


def make_shelf(
    shelf: Path, names: Sequence[str] = tuple(MAKERS), default: str | None = "classifier"
) -> Path:
    """A shelf with version 1 of the named models."""
    placed = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            placed[name] = put(shelf, name, "1", MAKERS[name](Path(folder) / "bundle"))
    state = ShelfState(default=default, models=placed, synced_at=time.time())
    shelves.write_state(shelf, state)
    return shelf


@pytest.fixture
def shelf(home: Path) -> Path:
    """A shelf in a fresh home with the three models, `classifier` the default."""
    return make_shelf(home / "shelf")


@pytest.fixture
def key(home: Path) -> str:
    """A key with the scope predict, in the home's keyring."""
    ring, token, _ = keyring.add(keyring.new_keyring(), ("predict",), name="test")
    keyring.save(home / "keys.json", ring)
    return token

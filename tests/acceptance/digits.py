"""A small digit classifier without PyTorch, for testing the canvas."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from onnx import TensorProto, helper, numpy_helper

from tests.contract.serving.conftest import put, write_bundle
from tidemill.bundle import Bundle, Example, ModelInput, ModelOutputs, RowPrediction
from tidemill.gallery.mnist import SIDE
from tidemill.serving.shelf import shelf as shelves
from tidemill.signature import Signature, Tensor


def digits_on_shelf(home: Path, images: pd.DataFrame, name: str = "digits") -> float:
    """Learn from images of the gallery's MNIST project and serve; the share of a held-out tenth
    that is read right."""
    made, right = learn(home / "made", images)
    placed = put(home / "shelf", name, "1", made)
    state = shelves.ShelfState(default=None, models={name: placed}, synced_at=time.time())
    shelves.write_state(home / "shelf", state)
    return right


def learn(folder: Path, images: pd.DataFrame) -> tuple[Bundle, float]:
    """Two dense layers as ONNX: raw pixels in, ten probabilities out."""
    from sklearn.neural_network import MLPClassifier

    pixels = images.drop(columns="digit").to_numpy(np.float32) / 255
    digits = images["digit"].to_numpy()
    cut = len(images) * 9 // 10
    net = MLPClassifier((100,), early_stopping=True, random_state=0, max_iter=60)
    net.fit(pixels[:cut], digits[:cut])
    right = float(net.score(pixels[cut:], digits[cut:]))
    row, given = pixels[cut], net.predict_proba(pixels[cut : cut + 1])[0]
    signature = Signature(
        "classification", "digit", tensor=Tensor("image", (1, SIDE, SIDE)),
        labels=tuple(range(10)),
    )  # fmt: skip
    answer = RowPrediction(int(given.argmax()), tuple(map(float, given)))
    example = Example((tuple(float(v) for v in row * 255),), (answer,))
    inputs = [ModelInput("image", "float32")]
    outputs = ModelOutputs(probabilities="probabilities")
    return write_bundle(folder, signature, inputs, outputs, _onnx(net), example), right


def _onnx(net: Any) -> bytes:
    constants = [numpy_helper.from_array(np.float32(255), "white")]
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Div", ["flat", "white"], ["h0"]),
    ]
    last = len(net.coefs_)
    for n, (weights, bias) in enumerate(zip(net.coefs_, net.intercepts_, strict=True), 1):
        constants += [
            numpy_helper.from_array(weights.astype(np.float32), f"w{n}"),
            numpy_helper.from_array(bias.astype(np.float32), f"b{n}"),
        ]
        nodes.append(helper.make_node("Gemm", [f"h{n - 1}", f"w{n}", f"b{n}"], [f"s{n}"]))
        if n < last:
            nodes.append(helper.make_node("Relu", [f"s{n}"], [f"h{n}"]))
    nodes.append(helper.make_node("Softmax", [f"s{last}"], ["probabilities"], axis=1))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "digits", [info("image", TensorProto.FLOAT, [None, 1, SIDE, SIDE])],
        [info("probabilities", TensorProto.FLOAT, [None, 10])], constants,
    )  # fmt: skip
    model: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return model

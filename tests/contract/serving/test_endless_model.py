"""A model that never answers delays others briefly, and does not keep the server from ending."""

from __future__ import annotations

import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto
from onnx import helper as make

from tidemill import bundle
from tidemill.serving.model import onnx_runtime
from tidemill.serving.shelf.shelf import ShelfState, read_state, write_state

from .conftest import FLOATS, Start, classifier, make_shelf, put, wait_until

BODY = {"features": [1.0] * len(FLOATS)}


def hang(model: bytes) -> bytes:
    """The model behind a loop that never ends."""
    whole = onnx.load_from_string(model)
    body = make.make_graph(
        [make.make_node("Identity", ["c"], ["d"])],
        "body",
        [
            make.make_tensor_value_info("i", TensorProto.INT64, []),
            make.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [make.make_tensor_value_info("d", TensorProto.BOOL, [])],
    )
    first = whole.graph.input[0].name
    true = make.make_tensor("endless", TensorProto.BOOL, [], [True])
    kind = whole.graph.input[0].type
    value = onnx.ValueInfoProto(name="v", type=kind)
    body.node.append(make.make_node("Identity", ["v"], ["w"]))
    body.input.append(value)
    body.output.append(onnx.ValueInfoProto(name="w", type=kind))
    carried = make.make_node("Loop", ["", "endless", first], ["looped"], body=body)
    for node in whole.graph.node:
        node.input[:] = ["looped" if name == first else name for name in node.input]
    whole.graph.initializer.append(true)
    whole.graph.node.insert(0, carried)
    return whole.SerializeToString()


def test_an_endless_model_stops_no_swap_and_no_shutdown(
    home: Path, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_runtime, "FIRST_RUN_SECONDS", 0.5)
    make_shelf(home / "shelf", ("classifier",))
    running = start()
    made = classifier(tmp_path / "bad", seed=5)
    made.model_path.write_bytes(hang(made.model_path.read_bytes()))
    bad = put(home / "shelf", "bad", "1", bundle.seal(made.path, made.manifest))
    good = put(home / "shelf", "good", "1", classifier(tmp_path / "good", seed=6))
    models = read_state(home / "shelf").models
    write_state(
        home / "shelf",
        ShelfState(models={**models, "bad": bad, "good": good}, synced_at=time.time()),
    )

    def status(name: str) -> int:
        return running.ask(f"/models/{name}/predict", BODY).status

    wait_until(lambda: status("good") == 200, "the good model")
    assert status("classifier") == 200
    problems = running.ask("/ready").json()["shelf"]["problems"]
    assert "did not finish within" in problems["bad"]
    assert status("bad") == 503
    running.stop()

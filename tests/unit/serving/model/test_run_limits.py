"""Graphs that may run for ever are found, never run on the event loop, and are ended."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx import helper as make

from tests.bundles import make_bundle
from tidemill.errors import DeadlineError
from tidemill.serving.model.onnx_runtime import OnnxRuntime
from tidemill.serving.model.run_limits import LOOPS, RUNNING, may_loop

ANY = ["n", 1]


def graph(*nodes: Any, values: tuple[Any, ...] = ()) -> onnx.ModelProto:
    whole = make.make_graph(
        list(nodes),
        "g",
        [make.make_tensor_value_info("x", TensorProto.FLOAT, ANY)],
        [make.make_tensor_value_info("y", TensorProto.FLOAT, ANY)],
        list(values),
    )
    return make.make_model(whole, opset_imports=[make.make_opsetid("", 17)], ir_version=8)


def endless() -> onnx.ModelProto:
    """x, carried through a loop whose condition stays true."""
    value, flag = TensorProto.FLOAT, TensorProto.BOOL
    body = make.make_graph(
        [make.make_node("Identity", ["c"], ["d"]), make.make_node("Identity", ["v"], ["w"])],
        "body",
        [
            make.make_tensor_value_info("i", TensorProto.INT64, []),
            make.make_tensor_value_info("c", flag, []),
            make.make_tensor_value_info("v", value, ANY),
        ],
        [make.make_tensor_value_info("d", flag, []), make.make_tensor_value_info("w", value, ANY)],
    )
    true = numpy_helper.from_array(np.array(True), "true")
    return graph(make.make_node("Loop", ["", "true", "x"], ["y"], body=body), values=(true,))


def runtime(tmp_path: Path, model: onnx.ModelProto, seconds: float) -> OnnxRuntime:
    made = make_bundle(tmp_path / "b")
    manifest = msgspec.structs.replace(
        made.manifest, outputs=msgspec.structs.replace(made.manifest.outputs, value="y")
    )
    return OnnxRuntime(model.SerializeToString(), manifest, made.signature, seconds)


ROW = [np.ones((1, 1), np.float32)]


def test_an_endless_graph_is_ended_at_its_deadline_and_never_runs_inline(tmp_path: Path) -> None:
    model = runtime(tmp_path, endless(), 0.2)
    assert model.waits
    for _ in range(2):
        with pytest.raises(DeadlineError, match="within"):
            model.run(ROW)


def test_a_shutdown_ends_a_running_graph(tmp_path: Path) -> None:
    model = runtime(tmp_path, endless(), 3600.0)
    ended = threading.Event()

    def run() -> None:
        with pytest.raises(DeadlineError):
            model.run(ROW)
        ended.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    for _ in range(3000):
        RUNNING.end_all()
        if ended.wait(0.01):
            break
    assert ended.is_set()
    thread.join()


def test_a_graph_without_loops_runs_without_a_limit(tmp_path: Path) -> None:
    model = runtime(tmp_path, graph(make.make_node("Identity", ["x"], ["y"])), 0.2)
    assert not model.waits
    assert model.run(ROW)[2] == [1.0]


@pytest.mark.parametrize("name", LOOPS)
def test_loops_are_found_in_subgraphs_and_functions(name: str) -> None:
    inner = make.make_node(name, ["x"], ["y"])
    nested = make.make_node("Other", ["x"], ["y"], body=graph(inner).graph)
    function = make.make_function("own", "F", ["x"], ["y"], [inner], [make.make_opsetid("", 17)])
    within = graph(make.make_node("F", ["x"], ["y"], domain="own"))
    within.functions.append(function)
    for model in (graph(inner), graph(nested), within):
        assert may_loop(model.SerializeToString())
    short = b"\x22" + bytes([len(name)]) + name.encode()
    long = b"\xa2\x00" + bytes([len(name) | 0x80]) + b"\x80\x00" + name.encode()
    whole = graph(inner).SerializeToString()
    assert short in whole
    assert may_loop(whole.replace(short, long))

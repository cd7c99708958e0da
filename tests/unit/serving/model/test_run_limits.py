"""Graphs that may run for ever are found, never run on the event loop, and are ended."""

from __future__ import annotations

import asyncio
import subprocess
import sys
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
from tests.servers import PATIENCE
from tidemill.errors import DeadlineError, UnavailableError
from tidemill.serving.model import run_limits
from tidemill.serving.model.onnx_runtime import OnnxRuntime
from tidemill.serving.model.run_limits import LOOPS, RUNNING, Overruns, may_loop

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


def test_a_graph_without_loops_may_run_on_the_event_loop(tmp_path: Path) -> None:
    model = runtime(tmp_path, graph(make.make_node("Identity", ["x"], ["y"])), 0.2)
    assert not model.waits
    for rows in (ROW, [np.ones((2, 1), np.float32)]):
        assert model.run(rows)[2][0] == 1.0


def slow(runs: int) -> onnx.ModelProto:
    """Adds zeros, computed from as many numbers as the largest value of x, many times over."""
    nodes = [
        make.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        make.make_node("Cast", ["most"], ["whole"], to=TensorProto.INT64),
        make.make_node("Reshape", ["whole", "one"], ["size"]),
        make.make_node("ConstantOfShape", ["size"], ["n0"]),
        *(make.make_node("Sin", [f"n{i}"], [f"n{i + 1}"]) for i in range(runs)),
        make.make_node("ReduceMax", [f"n{runs}"], ["zero"], keepdims=0),
        make.make_node("Add", ["x", "zero"], ["y"]),
    ]
    return graph(*nodes, values=(numpy_helper.from_array(np.array([1], np.int64), "one"),))


@pytest.mark.parametrize("rows", [1, 2])
def test_any_graph_is_ended_between_two_operators(tmp_path: Path, rows: int) -> None:
    model = runtime(tmp_path, slow(2000), 0.2)
    with pytest.raises(DeadlineError, match=r"within 0\.2 s"):
        model.run([np.full((rows, 1), 3e6, np.float32)])
    assert model.run([np.ones((rows, 1), np.float32)])[2][0] == 1.0


def test_a_run_on_the_event_loop_has_less_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_limits, "INLINE_SECONDS", 0.2)
    model = runtime(tmp_path, slow(2000), 3600.0)

    async def inline() -> None:
        model.run([np.full((1, 1), 3e6, np.float32)])

    with pytest.raises(DeadlineError):
        asyncio.run(inline())


def test_a_model_that_overruns_is_paused_for_longer_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(run_limits.time, "monotonic", lambda: now[0])
    overruns = Overruns()
    overruns.check("m")
    for pause in (1, 2, 4, 8, 16, 32, 60, 60):
        overruns.exceeded()
        with pytest.raises(UnavailableError, match=f"for {pause} s"):
            overruns.check("m")
        now[0] += pause + 0.1
        overruns.check("m")
    overruns.finished()
    overruns.exceeded()
    with pytest.raises(UnavailableError, match="for 1 s"):
        overruns.check("m")


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


STUCK = """
import asyncio, sys, threading
from concurrent.futures import ThreadPoolExecutor
from tidemill.serving.model import run_limits
run_limits.INLINE_SECONDS = run_limits.STUCK_SECONDS = run_limits.LEAVE_SECONDS = 0.1

class Options:
    terminate = False  # which nobody reads

def run():
    run_limits.RUNNING.add(Options(), 3600.0)
    started.set()
    threading.Event().wait()

async def main():
    run()

started = threading.Event()
if sys.argv[1] == "inline":
    asyncio.run(main())
else:
    ThreadPoolExecutor(1).submit(run)
    started.wait()
    run_limits.RUNNING.leave()
"""


@pytest.mark.parametrize(("where", "code"), [("inline", run_limits.STUCK_EXIT), ("thread", 0)])
def test_a_run_that_cannot_be_ended_does_not_keep_the_process(where: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", STUCK, where], timeout=PATIENCE, check=False)
    assert done.returncode == code

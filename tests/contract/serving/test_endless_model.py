"""A model that never answers delays others briefly, and does not keep the server from ending."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto
from onnx import helper as make

from tests.servers import PATIENCE
from tidemill import bundle
from tidemill.bundle import Bundle
from tidemill.serving.model import onnx_runtime
from tidemill.serving.model.runtime import Runtime, load_runtime
from tidemill.serving.shelf.shelf import ShelfEntry, ShelfState, read_state, write_state
from tidemill.serving.shelf.traffic_rules import TrafficRule, write_traffic

from .conftest import FLOATS, Start, Tidemill, classifier, make_shelf, put, wait_until

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


def problem(running: Tidemill, name: str) -> str:
    return str(running.ask("/ready").json()["shelf"]["problems"].get(name, ""))


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
    wait_until(lambda: "did not finish within" in problem(running, "bad"), "the refusal")
    assert status("bad") == 503
    running.stop()


def test_versions_that_never_load_or_fail_to_delay_no_other(
    home: Path, tmp_path: Path, start: Start
) -> None:
    """One hangs, one lacks memory; the hanging one can be replaced, and the server ends."""
    release, hanging = threading.Event(), threading.Semaphore(0)
    shelf = make_shelf(home / "shelf", ("classifier",))
    entries = {
        name: put(shelf, name, "1", classifier(tmp_path / name, seed=seed))
        for seed, name in enumerate(("hangs", "fails", "good"), 5)
    }
    newer = put(shelf, "hangs", "2", classifier(tmp_path / "newer", seed=9))

    def load(opened: Bundle) -> Runtime:
        if opened.digest == entries["hangs"].digest:
            hanging.release()
            release.wait()
        if opened.digest == entries["fails"].digest:
            raise MemoryError("no more")
        return load_runtime(opened)

    running = start(load_runtime=load)

    def serve(**models: ShelfEntry) -> None:
        everything = {**read_state(shelf).models, **models}
        write_state(shelf, ShelfState(models=everything, synced_at=time.time()))

    def status(name: str) -> int:
        return running.ask(f"/models/{name}/predict", BODY).status

    try:
        serve(hangs=entries["hangs"])
        assert hanging.acquire(timeout=PATIENCE)
        assert status("hangs") == 503
        serve(fails=entries["fails"], good=entries["good"])
        wait_until(lambda: status("good") == 200, "the good model")
        wait_until(lambda: "MemoryError: no more" in problem(running, "fails"), "the failure")
        assert problem(running, "hangs") == "Version 1 is being loaded."
        assert (status("fails"), status("hangs"), status("classifier")) == (503, 503, 200)
        serve(hangs=newer)
        wait_until(lambda: status("hangs") == 200, "the version that replaces the hanging one")
        serve(good=entries["hangs"])
        assert hanging.acquire(timeout=PATIENCE)
        running.stop()
    finally:
        release.set()


def test_a_challenger_that_never_loads_delays_no_swap(
    home: Path, tmp_path: Path, start: Start
) -> None:
    release, hanging = threading.Event(), threading.Event()
    shelf = make_shelf(home / "shelf", ("classifier",))
    first = read_state(shelf).models["classifier"]
    challenger = put(shelf, "classifier", "2", classifier(tmp_path / "2", seed=2))
    third = put(shelf, "classifier", "3", classifier(tmp_path / "3", seed=3))

    def load(opened: Bundle) -> Runtime:
        if opened.digest == challenger.digest:
            hanging.set()
            release.wait()
        return load_runtime(opened)

    def serve(champion: ShelfEntry) -> None:
        models, challengers = {"classifier": champion}, {"classifier": challenger}
        write_state(
            shelf, ShelfState(models=models, challengers=challengers, synced_at=time.time())
        )

    try:
        serve(first)
        write_traffic(shelf, {"classifier": TrafficRule("shadow", 1.0)})
        running = start(load_runtime=load)
        assert hanging.wait(PATIENCE)
        serve(third)
        wait_until(lambda: running.ask("/predict", BODY).json()["version"] == "3", "version 3")
    finally:
        release.set()

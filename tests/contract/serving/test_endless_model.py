"""A model that never answers delays others briefly, and does not keep the server from ending."""

from __future__ import annotations

import asyncio
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
from tidemill.errors import DeadlineError
from tidemill.serving.codec.outputs import Array, RawOutputs
from tidemill.serving.model import onnx_runtime, run_limits
from tidemill.serving.model.run_limits import on_event_loop
from tidemill.serving.model.runtime import Runtime, load_runtime
from tidemill.serving.service import Service
from tidemill.serving.settings import load
from tidemill.serving.shelf.shelf import ShelfEntry, ShelfState, read_state, write_state
from tidemill.serving.shelf.traffic_rules import TrafficRule, write_traffic

from .conftest import FLOATS, Start, Tidemill, classifier, make_shelf, put, wait_until

BODY = {"features": [1.0] * len(FLOATS)}


def hang(model: bytes, *, above: float | None = None) -> bytes:
    """The model behind a loop that never ends, always or if an input exceeds a number."""
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
    before = [
        make.make_node("ReduceMax", [first], ["most"], keepdims=0),
        make.make_node("Greater", ["most", "above"], ["endless"]),
    ]
    bound = make.make_tensor("above", TensorProto.FLOAT, [], [-1e30 if above is None else above])
    kind = whole.graph.input[0].type
    value = onnx.ValueInfoProto(name="v", type=kind)
    body.node.append(make.make_node("Identity", ["v"], ["w"]))
    body.input.append(value)
    body.output.append(onnx.ValueInfoProto(name="w", type=kind))
    carried = make.make_node("Loop", ["", "endless", first], ["looped"], body=body)
    for node in whole.graph.node:
        node.input[:] = ["looped" if name == first else name for name in node.input]
    whole.graph.initializer.append(bound)
    for node in (carried, *reversed(before)):
        whole.graph.node.insert(0, node)
    return whole.SerializeToString()


def put_hanging(shelf: Path, folder: Path, name: str, above: float | None = None) -> ShelfEntry:
    made = classifier(folder, seed=5)
    made.model_path.write_bytes(hang(made.model_path.read_bytes(), above=above))
    return put(shelf, name, "1", bundle.seal(made.path, made.manifest))


def problem(running: Tidemill, name: str) -> str:
    return str(running.ask("/ready").json()["shelf"]["problems"].get(name, ""))


def test_an_endless_model_stops_no_swap_and_no_shutdown(
    home: Path, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_runtime, "FIRST_RUN_SECONDS", 0.5)
    make_shelf(home / "shelf", ("classifier",))
    running = start()
    bad = put_hanging(home / "shelf", tmp_path / "bad", "bad")
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


def test_a_model_that_hangs_on_a_request_is_paused_and_harms_no_other(
    home: Path, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_limits, "FIRST_PAUSE_SECONDS", 3600.0)
    monkeypatch.setattr(run_limits, "MAX_PAUSE_SECONDS", 3600.0)
    shelf = make_shelf(home / "shelf", ("classifier",))
    bad = put_hanging(shelf, tmp_path / "bad", "bad", above=100.0)
    models = {**read_state(shelf).models, "bad": bad}
    write_state(shelf, ShelfState(models=models, synced_at=time.time()))
    running = start(timeout=0.5, threads=1)

    def ask(value: float) -> int:
        return running.ask("/models/bad/predict", {"features": [value] * len(FLOATS)}).status

    assert ask(1.0) == 200
    assert running.ask("/ready").json()["failing"] == []
    assert ask(1000.0) == 504
    ended = 'tidemill_model_overruns_total{model="bad"} 1.0'
    wait_until(lambda: ended in running.ask("/metrics").body.decode(), "the run's end")
    assert ask(1.0) == 503
    ready = running.ask("/ready")
    assert (ready.status, ready.json()["status"]) == (200, "degraded")
    assert ready.json()["failing"] == ["bad"]
    assert running.ask("/models/classifier/predict", BODY).status == 200
    assert "tidemill_models_failing 1.0" in running.ask("/metrics").body.decode()
    running.service.models.predictors["bad"]._overruns._until = 0.0  # the pause is over
    assert ask(1.0) == 200
    assert running.ask("/ready").json()["failing"] == []


def test_a_model_that_blocks_the_event_loop_is_moved_to_a_thread(home: Path, start: Start) -> None:
    """The request that took too long on the event loop is answered from the thread."""
    make_shelf(home / "shelf", ("classifier",))
    threads: list[bool] = []

    class Blocking:
        def __init__(self, model: Runtime) -> None:
            self._model = model

        def run(self, inputs: list[Array]) -> RawOutputs:
            if inputs[0][0, 0] == 7.0:
                threads.append(not on_event_loop())
                if on_event_loop():
                    time.sleep(0.11)
                    raise DeadlineError("The model did not finish.")
            return self._model.run(inputs)

    running = start(load_runtime=lambda opened: Blocking(load_runtime(opened)), inline_ms=1000.0)
    assert running.ask("/predict", BODY).status == 200
    for _ in range(2):
        assert running.ask("/predict", {"features": [7.0] * len(FLOATS)}).status == 200
    assert threads == [False, True, True]
    predictor = running.service.models.predictors["classifier"]
    predictor._inline_again = 0.0  # the pause is over
    for _ in range(2):
        assert running.ask("/predict", {"features": [7.0] * len(FLOATS)}).status == 200
    assert threads == [False, True, True, True, False, True]
    assert running.ask("/ready").json()["failing"] == []


def test_the_server_loads_what_passed_in_a_process_of_its_own(home: Path, tmp_path: Path) -> None:
    shelf = make_shelf(home / "shelf", ("classifier",))
    bad = put_hanging(shelf, tmp_path / "bad", "bad")
    models = {**read_state(shelf).models, "bad": bad}
    write_state(shelf, ShelfState(models=models, synced_at=time.time()))
    service = Service(load({}, home=str(home), auth="off", timeout=0.5))

    async def run() -> None:
        await service.start()
        await asyncio.wait_for(service.models.ready.wait(), PATIENCE)
        await service.stop()

    asyncio.run(run())
    assert list(service.models.predictors) == ["classifier"]
    assert "did not finish within 0.5 s" in service.models.problems["bad"]
    marks = {path.name[:64]: path.read_text() for path in (home / "tested").iterdir()}
    assert marks == {models["classifier"].digest: "passed\n", bad.digest: ""}

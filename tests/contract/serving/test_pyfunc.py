"""A model that only MLflow's pyfunc can run, in a worker process."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pandas as pd
import pytest
from mlflow import MlflowClient

from tidemill.loop.sync import pyfunc_supervisor
from tidemill.loop.sync.model_converter import ModelConverter
from tidemill.loop.sync.pyfunc_supervisor import PyfuncSupervisor, supervise
from tidemill.loop.sync.selection import parse_selection
from tidemill.loop.sync.shelf_sync import ShelfSync
from tidemill.serving.model import pool as fleets
from tidemill.serving.shelf.shelf import ShelfState, write_state
from tidemill.stores.mlflow.registry import Registry

from .conftest import Tidemill, starting, wait_until

with warnings.catch_warnings():  # of MLflow about its own type hints
    warnings.simplefilter("ignore")
    import mlflow.pyfunc

pytestmark = pytest.mark.filterwarnings("ignore")
PATIENCE = 300.0  # seconds; a worker imports MLflow first
ROW = {"size": 21.0, "rooms": 3, "town": "north"}


class Particular(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Adds its inputs, and fails on some of them."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        sizes = model_input["size"]
        if (sizes < 0).any():
            raise ValueError("a size below zero")
        lengths = model_input["town"].map(lambda town: 0 if pd.isna(town) else len(town))
        return sizes * 2 + model_input["rooms"] + lengths


class Served:
    """A shelf with the model, the supervisor of its worker, and a server."""

    def __init__(self, home: Path, running: Tidemill, supervisor: PyfuncSupervisor) -> None:
        self.home = home
        self.running = running
        self.supervisor = supervisor

    def status(self) -> int:
        return self.running.ask("/predict", ROW).status


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("pyfunc")
    registry = _registered(folder, mlflow_template)
    home = folder / "home"
    bundle_for = ModelConverter(registry, trust=True)
    report = ShelfSync(
        registry, home / "shelf", parse_selection(["m"]), bundle_for=bundle_for
    ).once()
    assert not report.problems
    stop, supervisor = threading.Event(), PyfuncSupervisor(home, home / "shelf")
    thread = threading.Thread(target=supervise, args=(supervisor, stop))
    with pytest.MonkeyPatch.context() as patch, starting(home) as begin:
        patch.setattr(fleets, "RETRY_SECONDS", 0.2)
        patch.setattr(pyfunc_supervisor, "LEAVING_SECONDS", 0.0)
        running = begin()
        wait_until(lambda: running.ask("/ready").status == 503, "the first look")
        wait_until(lambda: "worker" in running.service.models.problems.get("m", ""), "the problem")
        thread.start()
        try:
            wait_until(lambda: running.ask("/ready").status == 200, "the worker", PATIENCE)
            yield Served(home, running, supervisor)
        finally:
            stop.set()
            thread.join(300)
    assert not supervisor.workers


def _registered(folder: Path, template: Path) -> Registry:
    from mlflow.types import ColSpec, Schema

    shutil.copyfile(template, folder / "mlflow.db")
    columns = [ColSpec("double", "size"), ColSpec("integer", "rooms")]
    inputs = Schema([*columns, ColSpec("string", "town", required=False)])
    signature = mlflow.models.ModelSignature(inputs, Schema([ColSpec("double", "price")]))
    example = pd.DataFrame([ROW]).astype({"rooms": "int32"})
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # nobody imports a test
    mlflow.pyfunc.save_model(
        str(folder / "model"), python_model=Particular(), signature=signature,
        input_example=example, pip_requirements=[],
    )  # fmt: skip
    registry = Registry(f"sqlite:///{folder / 'mlflow.db'}")
    client = MlflowClient(registry.connection.tracking_uri)
    client.create_registered_model("m")
    client.create_model_version("m", str(folder / "model"))
    return registry


def test_all_protocols_return_the_models_predictions(served: Served) -> None:
    native = served.running.ask("/predict", ROW).json()
    assert (native["prediction"], native["version"]) == (50.0, "1")
    gap = served.running.ask("/predict", {**ROW, "town": None}).json()
    assert gap["prediction"] == 45.0
    form = {"dataframe_records": [ROW, {**ROW, "rooms": 4}]}
    assert served.running.ask("/invocations", form).json() == {"predictions": [50.0, 51.0]}
    kinds = {"size": ("FP64", 21.0), "rooms": ("INT64", 3), "town": ("BYTES", "north")}
    tensors = [
        {"name": name, "datatype": kind, "shape": [1, 1], "data": [value]}
        for name, (kind, value) in kinds.items()
    ]
    v2 = served.running.ask("/v2/models/m/infer", {"inputs": tensors}).json()
    assert v2["outputs"][0]["data"] == [50.0]


def test_invalid_input_is_refused_before_the_model_runs(served: Served) -> None:
    for wrong, field in (
        ({"rooms": 2.5}, "rooms"),
        ({"size": None}, "size"),
        ({"rooms": 2**70}, "rooms"),
    ):
        refused = served.running.ask("/predict", {**ROW, **wrong})
        assert (refused.status, refused.json()["field"]) == (422, field)


def test_a_row_that_the_model_fails_on_affects_no_other(served: Served) -> None:
    bad = {**ROW, "size": -1.0}
    found: list[int] = []

    def ask(row: dict[str, Any]) -> None:
        found.append(served.running.ask("/predict", row).status)

    threads = [threading.Thread(target=ask, args=(row,)) for row in [ROW] * 6 + [bad] * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert sorted(found) == [200] * 6 + [500] * 2
    assert "failed" in served.running.ask("/predict", bad).json()["detail"]


def test_a_worker_that_dies_is_restarted_and_requests_get_503_meanwhile(served: Served) -> None:
    (worker,) = served.supervisor.workers.values()
    assert worker.process is not None
    old = worker.process.pid
    os.kill(old, signal.SIGKILL)
    worker.process.wait()
    refused = served.running.ask("/predict", ROW)
    assert refused.status == 503
    assert "worker" in refused.json()["detail"]
    wait_until(lambda: served.status() == 200, "the new worker", PATIENCE)
    assert worker.process.pid != old


def test_the_worker_stops_when_its_version_leaves_the_shelf(served: Served) -> None:
    (worker,) = served.supervisor.workers.values()
    socket, process = worker.socket, worker.process
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    write_state(served.home / "shelf", ShelfState())
    wait_until(lambda: not served.supervisor.workers, "the end")
    assert process is not None
    assert process.poll() is not None
    assert not socket.exists()

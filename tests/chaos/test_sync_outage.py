"""The MLflow server goes away and comes back: the shelf stays as it is, then catches up."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import msgspec
import pytest
from mlflow import MlflowClient

from tests.servers import MlflowServer, private_mlflow, wait_until
from tidemill import bundle
from tidemill.bundle import Bundle, Example, Manifest, ModelInput, ModelOutputs
from tidemill.errors import UnavailableError
from tidemill.loop.sync import Sync, follow
from tidemill.loop.wanted import Wanted
from tidemill.serving.shelf import open_bundle, read_state
from tidemill.signature import Column, Signature
from tidemill.stores.link import bound_waits
from tidemill.stores.registry import Registry
from tidemill.stores.versions import Version

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.filterwarnings(  # MLflow's own mappers, under SQLAlchemy 2.1
        "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
    ),
]


def make_bundle(folder: Path, content: bytes) -> Bundle:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(content)
    signature = Signature(task="regression", target="y", columns=(Column("x", "number"),))
    (folder / bundle.SIGNATURE).write_bytes(msgspec.json.encode(signature))
    (folder / bundle.PROFILE).write_bytes(b"{}")
    (folder / bundle.EXAMPLE).write_bytes(msgspec.json.encode(Example(rows=(), answers=())))
    manifest = Manifest(
        format=bundle.FORMAT,
        model="m",
        created="2026-01-01T00:00:00Z",
        runtime="onnx",
        files={},
        inputs=(ModelInput("x", "float32", ("x",)),),
        outputs=ModelOutputs(value="y"),
    )
    return bundle.seal(folder, manifest)


def register(client: MlflowClient, registry: Registry, made: Bundle) -> Version:
    """A run that holds the bundle, and a version of the model `m`."""
    experiment = client.get_experiment_by_name("e")
    run = client.create_run(
        experiment.experiment_id if experiment else client.create_experiment("e")
    )
    client.log_artifacts(run.info.run_id, str(made.path), "bundle")
    if not registry.models():
        client.create_registered_model("m")
    tags = {"tidemill.bundle": made.digest}
    version = client.create_model_version("m", run.info.artifact_uri, run.info.run_id, tags=tags)
    return registry.version("m", version.version)


def served(shelf: Path) -> str | None:
    entry = read_state(shelf).models.get("m")
    return open_bundle(shelf, entry).model_path.read_text() if entry else None


def stop_and_ask(server: MlflowServer, registry: Registry) -> float:
    """Stop the server; the seconds until the registry says that it is gone."""
    server.stop()
    started = time.monotonic()
    with pytest.raises(UnavailableError, match="cannot be reached"):
        registry.models()
    return time.monotonic() - started


def test_the_shelf_outlives_the_server_and_catches_up_with_it(
    tmp_path: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    bound_waits()
    (tmp_path / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    shelf, stop = tmp_path / "shelf", threading.Event()
    with private_mlflow(tmp_path) as server:
        client, registry = MlflowClient(server.url), Registry(server.url)
        first, second = (
            register(client, registry, make_bundle(tmp_path / name, name.encode()))
            for name in ("one", "two")
        )
        registry.crown(first)
        sync = Sync(Registry(server.url), shelf, Wanted(every=True))
        thread = threading.Thread(target=follow, args=(sync, stop), kwargs={"interval": 0.1})
        thread.start()
        try:
            wait_until(lambda: served(shelf) == "one", "the first version on the shelf")
            moved = time.monotonic()
            registry.crown(second)
            wait_until(lambda: served(shelf) == "two", "the second version on the shelf")
            assert time.monotonic() - moved < 30
            time.sleep(1.1)  # past the second for which the registry takes the server as there
            assert stop_and_ask(server, registry) < 30, "not the minutes that MLflow would retry"
            assert served(shelf) == "two"
            server.start()
            registry.crown(first)
            wait_until(lambda: served(shelf) == "one", "the first version back on the shelf")
        finally:
            stop.set()
            thread.join()

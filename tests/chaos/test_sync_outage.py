"""The MLflow server fails and recovers: the shelf does not change meanwhile, then catches up."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.bundles import make_bundle
from tests.servers import free_port, private_mlflow, wait_until
from tidemill.bundle import Bundle
from tidemill.errors import UnavailableError
from tidemill.loop.sync.process import sync_forever
from tidemill.loop.sync.selection import ModelSelection
from tidemill.loop.sync.shelf_sync import ShelfSync
from tidemill.serving.shelf.shelf import open_bundle, read_state
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import ModelVersion

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.filterwarnings(  # MLflow's own mappers, under SQLAlchemy 2.1
        "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
    ),
]


def register(client: MlflowClient, registry: Registry, made: Bundle) -> ModelVersion:
    """Create a run with the bundle, and a version of the model `m`."""
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


class Proxy:
    """A connection to a server that can be cut and restored; restarting a server takes long."""

    def __init__(self, to: int) -> None:
        self.port = free_port()
        self._to = to
        self._open: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def restore(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        self._open = [listener]
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=(one, other), daemon=True).start()


def _pump(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)


def time_to_fail(proxy: Proxy, registry: Registry) -> float:
    """Cut the connection; return the seconds until the registry raises UnavailableError."""
    proxy.cut()
    started = time.monotonic()
    with pytest.raises(UnavailableError, match="cannot be reached"):
        registry.models()
    return time.monotonic() - started


def test_the_shelf_survives_a_server_outage_and_catches_up(
    tmp_path: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # a slow server is not down
    (tmp_path / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    shelf, stop = tmp_path / "shelf", threading.Event()
    with private_mlflow(tmp_path) as server:
        proxy = Proxy(server.port)
        proxy.restore()
        client, registry = MlflowClient(server.url), Registry(proxy.url)
        first, second = (
            register(client, registry, make_bundle(tmp_path / name, name.encode()))
            for name in ("one", "two")
        )
        registry.set_champion(first)
        sync = ShelfSync(Registry(proxy.url), shelf, ModelSelection(every=True))
        thread = threading.Thread(target=sync_forever, args=(sync, stop), kwargs={"interval": 0.1})
        thread.start()
        try:
            wait_until(lambda: served(shelf) == "one", "the first version on the shelf")
            registry.set_champion(second)
            wait_until(lambda: served(shelf) == "two", "the second version on the shelf")
            assert time_to_fail(proxy, registry) < 60, "MLflow itself would retry for minutes"
            Registry(server.url).set_champion(first)
            assert served(shelf) == "two"
            proxy.restore()
            wait_until(lambda: served(shelf) == "one", "the first version back on the shelf")
        finally:
            stop.set()
            thread.join()
            proxy.cut()

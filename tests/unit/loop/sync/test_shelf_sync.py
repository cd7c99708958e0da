"""The sync brings registered versions to the shelf, and leaves the shelf unchanged on errors."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.bundles import make_bundle
from tidemill.bundle import Bundle
from tidemill.errors import NotFoundError, UnavailableError
from tidemill.loop.sync import bundle_fetcher, shelf_sync
from tidemill.loop.sync.process import sync_forever
from tidemill.loop.sync.selection import ModelSelection, parse_selection
from tidemill.loop.sync.shelf_sync import ShelfSync, sync_once
from tidemill.serving.shelf.shelf import ShelfState, open_bundle, read_state, write_state
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import ModelReference, ModelVersion

pytestmark = pytest.mark.filterwarnings(  # MLflow's own mappers, under SQLAlchemy 2.1
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)


@pytest.fixture
def uri(tmp_path: Path, mlflow_template: Path) -> str:
    """A fresh MLflow store."""
    shutil.copyfile(mlflow_template, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(uri)


@pytest.fixture
def registry(uri: str) -> Registry:
    return Registry(uri)


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return tmp_path / "shelf"


Register = Callable[..., ModelVersion]


@pytest.fixture
def register(client: MlflowClient, registry: Registry, tmp_path: Path) -> Register:
    """register(name, bundled): a run with a bundle, and a version of it."""
    count = iter(range(10_000))
    experiment = client.create_experiment("e", artifact_location=str(tmp_path / "artifacts"))

    def register(name: str = "m", *, bundled: bool = True) -> ModelVersion:
        run = client.create_run(experiment)
        tags = {}
        if bundled:
            number = next(count)
            made = make_bundle(tmp_path / "made" / str(number), f"{name} {number}".encode())
            client.log_artifacts(run.info.run_id, str(made.path), "bundle")
            tags = {"tidemill.bundle": made.digest}
        if name not in [m.name for m in registry.models()]:
            client.create_registered_model(name)
        source = f"{run.info.artifact_uri}/model"
        version = client.create_model_version(name, source, run.info.run_id, tags=tags)
        return registry.version(name, version.version)

    return register


def served(shelf: Path) -> dict[str, str]:
    """The version of each model in the state; each bundle must open."""
    state = read_state(shelf)
    for placed in (*state.models.values(), *state.challengers.values()):
        assert open_bundle(shelf, placed).digest == placed.digest
    return {name: placed.version for name, placed in state.models.items()}


def damage(tmp_path: Path, version: ModelVersion) -> Path:
    """Change the model in the artifact store; returns its path."""
    (path,) = (tmp_path / "artifacts" / str(version.run_id)).rglob("model.onnx")
    path.write_bytes(b"evil")
    return path


def test_command_line_words_are_parsed() -> None:
    assert parse_selection([]) == parse_selection(["all"]) == ModelSelection(every=True)
    assert parse_selection(["a", "models:/b/3", "tag:serve=yes"]) == ModelSelection(
        (ModelReference("a"), ModelReference("b", version="3")), (("serve", "yes"),)
    )


def test_the_champion_comes_to_the_shelf(
    registry: Registry, register: Register, shelf: Path
) -> None:
    first, _ = register(), register()
    registry.set_champion(first)
    report = sync_once(registry, shelf, ["m"])
    assert report.changed
    assert served(shelf) == {"m": "1"}
    state = read_state(shelf)
    assert state == report.state
    assert state.default == "m"
    assert state.models["m"].alias == "champion"
    assert state.models["m"].digest == first.digest
    assert time.time() - 60 < state.synced_at <= time.time()


def test_references_by_number_alias_and_stage_are_resolved(
    registry: Registry, register: Register, shelf: Path
) -> None:
    for name in "abcd":
        versions = [register(name) for _ in range(3)]
        registry.set_champion(versions[1])
        registry.set_challenger(versions[2])
    words = ["models:/a/1", "models:/b@challenger", "c/Staging", "models:/d@champion"]
    sync_once(registry, shelf, words)
    assert served(shelf) == {"a": "1", "b": "3", "c": "3", "d": "2"}
    assert read_state(shelf).models["a"].alias is None
    assert read_state(shelf).models["b"].alias == "challenger"


def test_without_a_champion_the_latest_version_is_served_until_there_is_one(
    registry: Registry, register: Register, shelf: Path
) -> None:
    sync = ShelfSync(registry, shelf, parse_selection(["m"]))
    first = register()
    sync.once()
    assert served(shelf) == {"m": "1"}
    register()
    sync.once()
    assert served(shelf) == {"m": "2"}
    registry.set_champion(first)
    sync.once()
    assert served(shelf) == {"m": "1"}


@pytest.mark.parametrize("words", [["m"], []])
def test_a_moved_alias_is_on_the_shelf_after_the_next_update(
    words: list[str], registry: Registry, register: Register, shelf: Path
) -> None:
    sync = ShelfSync(registry, shelf, parse_selection(words))
    versions = [register(), register(), register()]
    for turn in (0, 1, 2, 0, 2):
        registry.set_champion(versions[turn])
        sync.once()
        assert served(shelf) == {"m": str(turn + 1)}


def test_an_update_without_changes_writes_nothing_and_makes_few_requests(
    registry: Registry, register: Register, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        registry.set_champion(register(name))
    calls: list[int] = []
    real = registry._connection.call
    monkeypatch.setattr(registry._connection, "call", lambda ask: calls.append(1) or real(ask))
    for words, limit in (([], 1), (["a", "b"], 4), (["models:/a/1"], 0)):
        sync = ShelfSync(registry, shelf, parse_selection(words))
        sync.once()
        before = (shelf / "state.json").stat()
        calls.clear()
        report = sync.once()
        assert not report.changed
        assert (shelf / "state.json").stat() == before
        assert len(calls) <= limit, f"{words}: {len(calls)} calls"


def test_the_challenger_is_on_the_shelf(
    registry: Registry, register: Register, shelf: Path
) -> None:
    first, second = register(), register()
    registry.set_champion(first)
    sync = ShelfSync(registry, shelf, ModelSelection(every=True))
    sync.once()
    registry.set_challenger(second)
    sync.once()
    assert served(shelf) == {"m": "1"}
    assert read_state(shelf).challengers["m"].version == "2"
    assert read_state(shelf).challengers["m"].alias == "challenger"
    registry.set_champion(second)
    sync.once()
    assert served(shelf) == {"m": "2"}
    assert read_state(shelf).challengers == {}


def test_models_are_added_and_removed_with_the_registry_and_their_tag(
    registry: Registry, register: Register, shelf: Path, client: MlflowClient
) -> None:
    register("a")
    register("b")
    sync_once(registry, shelf, "all")
    assert set(served(shelf)) == {"a", "b"}
    sync_once(registry, shelf, ["b"])
    assert set(served(shelf)) == {"b"}
    sync = ShelfSync(registry, shelf, parse_selection(["tag:serve=yes"]))
    sync.once()
    assert served(shelf) == {}
    client.set_registered_model_tag("a", "serve", "yes")
    sync.once()
    assert set(served(shelf)) == {"a"}
    client.delete_registered_model_tag("a", "serve")
    sync.once()
    assert served(shelf) == {}


def test_the_default_model_stays_when_models_are_added(
    registry: Registry, register: Register, shelf: Path
) -> None:
    sync = ShelfSync(registry, shelf, ModelSelection(every=True))
    register("m")
    sync.once()
    register("a")
    sync.once()
    assert set(served(shelf)) == {"a", "m"}
    assert read_state(shelf).default == "m"
    ShelfSync(registry, shelf, ModelSelection(every=True, default="a")).once()
    assert read_state(shelf).default == "a"


def test_a_corrupt_bundle_is_reported_and_the_old_version_stays(
    registry: Registry, register: Register, shelf: Path, tmp_path: Path
) -> None:
    sync = ShelfSync(registry, shelf, parse_selection(["m"]))
    registry.set_champion(register())
    sync.once()
    second = register()
    path = damage(tmp_path, second)
    registry.set_champion(second)
    report = sync.once()
    assert report.changed
    assert served(shelf) == {"m": "1"}
    assert "sha256" in report.problems["m"]
    assert "sha256" in read_state(shelf).problems["m"]
    assert [p.name for p in shelf.iterdir() if p.name.startswith(".")] == []
    path.write_bytes(b"m 1")
    for failure in sync._fetcher._failures.values():
        failure.retry_at = 0.0
    sync.once()
    assert served(shelf) == {"m": "2"}
    assert read_state(shelf).problems == {}


def test_a_refused_bundle_is_not_downloaded_at_every_update(
    registry: Registry,
    register: Register,
    shelf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damage(tmp_path, register())
    tries: list[str] = []
    real = registry.fetch_bundle

    def fetch(version: ModelVersion, into: Path) -> Bundle:
        tries.append(version.number)
        return real(version, into)

    monkeypatch.setattr(registry, "fetch_bundle", fetch)
    monkeypatch.setattr(bundle_fetcher, "RETRY_SECONDS", (3600.0,))
    sync = ShelfSync(registry, shelf, parse_selection(["m"]))
    for _ in range(5):
        assert "sha256" in sync.once().problems["m"]
    assert tries == ["1"]


def test_one_models_problem_does_not_affect_the_others(
    registry: Registry, register: Register, shelf: Path, tmp_path: Path
) -> None:
    damage(tmp_path, register("bad"))
    register("good")
    register("bare", bundled=False)
    report = sync_once(registry, shelf, ["bad", "bare", "gone", "good"])
    assert served(shelf) == {"good": "1"}
    assert set(report.problems) == {"bad", "bare", "gone"}
    assert "without a bundle" in report.problems["bare"]
    assert "tidemill train" in report.problems["bare"]
    assert "There is no model 'gone'" in report.problems["gone"]


def test_a_version_without_a_bundle_is_converted(
    registry: Registry, register: Register, shelf: Path
) -> None:
    register(bundled=False)
    made: list[str] = []

    def convert(version: ModelVersion, into: Path) -> Bundle:
        made.append(version.number)
        return make_bundle(into / "converted", b"converted")

    sync = ShelfSync(registry, shelf, parse_selection(["m"]), bundle_for=convert)
    sync.once()
    sync.once()
    assert served(shelf) == {"m": "1"}
    assert made == ["1"]


@pytest.mark.parametrize("failure", [RecursionError("too deep"), MemoryError(), KeyError("flavor")])
def test_a_conversion_that_fails_in_any_way_affects_no_other_model(
    registry: Registry, register: Register, shelf: Path, failure: Exception
) -> None:
    register(bundled=False)
    register("other")

    def convert(version: ModelVersion, into: Path) -> Bundle:
        raise failure

    report = ShelfSync(registry, shelf, parse_selection(["all"]), bundle_for=convert).once()
    assert served(shelf) == {"other": "1"}
    assert type(failure).__name__ in report.problems["m"]


def test_a_bundle_corrupted_on_disk_is_fetched_again_by_the_next_process(
    registry: Registry, register: Register, shelf: Path
) -> None:
    register()
    sync_once(registry, shelf, "all")
    placed = read_state(shelf).models["m"]
    (shelf / placed.folder / "model.onnx").write_bytes(b"rot")
    sync_once(registry, shelf, "all")
    assert served(shelf) == {"m": "1"}


def test_a_bundle_that_is_on_the_shelf_is_not_downloaded_again(
    registry: Registry, register: Register, shelf: Path, tmp_path: Path
) -> None:
    registry.set_champion(register())
    sync_once(registry, shelf, "all")
    shutil.rmtree(tmp_path / "artifacts")
    (shelf / "state.json").unlink()
    assert not sync_once(registry, shelf, "all").problems
    assert served(shelf) == {"m": "1"}


def test_a_recreated_registry_is_noticed_despite_equal_version_numbers(
    registry: Registry, register: Register, shelf: Path, client: MlflowClient
) -> None:
    sync = ShelfSync(registry, shelf, ModelSelection(every=True))
    registry.set_champion(register())
    sync.once()
    client.delete_registered_model("m")
    again = register()
    registry.set_champion(again)
    assert again.number == "1"
    sync._next_full_check = 0.0
    sync.once()
    assert read_state(shelf).models["m"].digest == again.digest


def test_a_state_that_cannot_be_read_is_written_again(
    registry: Registry, register: Register, shelf: Path
) -> None:
    register()
    shelf.mkdir()
    (shelf / "state.json").write_text("{")
    sync_once(registry, shelf, "all")
    assert served(shelf) == {"m": "1"}


def test_the_disk_is_bounded_over_many_versions(
    registry: Registry, register: Register, shelf: Path
) -> None:
    sync = ShelfSync(registry, shelf, ModelSelection(every=True), keep=2)
    for _ in range(6):
        registry.set_champion(register())
        sync.once()
    assert served(shelf) == {"m": "6"}
    assert sorted(p.name.partition("-")[0] for p in (shelf / "m").iterdir()) == ["5", "6"]


def test_mlflow_down_leaves_the_shelf_as_it_is(shelf: Path) -> None:
    state = ShelfState(default="m", synced_at=1.0)
    write_state(shelf, state)
    with pytest.raises(UnavailableError):
        sync_once(Registry("http://127.0.0.1:9"), shelf, "all")
    assert read_state(shelf) == state


class FlakyRegistry(Registry):
    """A registry that can be switched off."""

    down = False

    def models(self, tag: tuple[str, str] | None = None) -> list[Any]:
        if self.down:
            raise UnavailableError("MLflow cannot be reached.")
        return super().models(tag)


def test_an_outage_is_logged_once_and_syncing_resumes_after_it(
    uri: str, register: Register, shelf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = FlakyRegistry(uri)
    registry.set_champion(register())
    registry.down = True
    stop = threading.Event()
    sync = ShelfSync(registry, shelf, ModelSelection(every=True))
    caplog.set_level("INFO")
    thread = threading.Thread(target=sync_forever, args=(sync, stop), kwargs={"interval": 0.01})
    thread.start()
    try:
        wait_for(lambda: "keeping the shelf as it is" in caplog.text)
        time.sleep(0.3)
        assert caplog.text.count("keeping the shelf as it is") == 1
        assert not (shelf / "state.json").exists()
        registry.down = False
        wait_for(lambda: (shelf / "state.json").exists())
        assert served(shelf) == {"m": "1"}
        wait_for(lambda: "can be reached again" in caplog.text)
    finally:
        stop.set()
        thread.join()


def test_syncing_survives_an_unexpected_error(
    registry: Registry, register: Register, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    stop, left = threading.Event(), [2]
    real = shelf_sync.write_state

    def write(folder: Path, state: ShelfState) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(28, "No space left on device")
        real(folder, state)

    monkeypatch.setattr(shelf_sync, "write_state", write)
    sync = ShelfSync(registry, shelf, ModelSelection(every=True))
    thread = threading.Thread(target=sync_forever, args=(sync, stop), kwargs={"interval": 0.01})
    thread.start()
    wait_for(lambda: (shelf / "state.json").exists())
    stop.set()
    thread.join()
    assert served(shelf) == {"m": "1"}


def wait_for(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_the_process_follows_the_registry_and_ends_cleanly_on_sigterm(
    uri: str, registry: Registry, register: Register, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    first, second = register(), register()
    registry.set_champion(first)
    environment = {
        **os.environ,
        "TIDEMILL_HOME": str(home),
        "MLFLOW_TRACKING_URI": uri,
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-m", "tidemill.loop.sync", "m", "--interval", "0.1"]
    with subprocess.Popen(command, env=environment, cwd=tmp_path) as process:
        try:
            state = home / "shelf" / "state.json"
            wait_for(lambda: state.exists() or process.poll() is not None)
            assert served(home / "shelf") == {"m": "1"}
            registry.set_champion(second)
            wait_for(lambda: served(home / "shelf") == {"m": "2"})
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0
    assert json.loads(state.read_text())["models"]["m"]["version"] == "2"
    assert [p.name for p in (home / "shelf").iterdir() if p.name.startswith(".")] == []


def test_an_invalid_reference_fails_before_anything_starts() -> None:
    with pytest.raises(NotFoundError, match="not a reference to a model"):
        parse_selection(["a/b/c"])

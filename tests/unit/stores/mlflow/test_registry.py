"""The registry, on a real MLflow store: references, aliases, stages, metrics and bundles."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mlflow import MlflowClient

from tests.bundles import make_bundle
from tidemill.errors import BundleError, ConflictError, NotFoundError, UnavailableError
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import ModelReference, ModelVersion, parse_reference


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


pytestmark = pytest.mark.filterwarnings(  # MLflow's own mappers, under SQLAlchemy 2.1
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)

Register = Callable[..., ModelVersion]


@pytest.fixture
def register(client: MlflowClient, registry: Registry, tmp_path: Path) -> Register:
    """register(name, metrics, bundled): a run with a bundle, and a version of it."""
    count = iter(range(10_000))
    experiment = client.create_experiment("e", artifact_location=str(tmp_path / "artifacts"))

    def register(
        name: str = "m", metrics: dict[str, float] | None = None, *, bundled: bool = True
    ) -> ModelVersion:
        run = client.create_run(experiment)
        for metric, value in (metrics or {}).items():
            client.log_metric(run.info.run_id, metric, value)
        tags = {}
        if bundled:
            number = next(count)
            made = make_bundle(tmp_path / "made" / str(number), f"{name} {number}".encode())
            client.log_artifacts(run.info.run_id, str(made.path), "bundle")
            tags = {"tidemill.bundle": made.digest, "tidemill.candidate": "ridge"}
        if name not in [m.name for m in registry.models()]:
            client.create_registered_model(name)
        source = f"{run.info.artifact_uri}/model"
        version = client.create_model_version(name, source, run.info.run_id, tags=tags)
        return registry.version(name, version.version)

    return register


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("iris-classifier", ModelReference("iris-classifier")),
        ("models:/iris/3", ModelReference("iris", version="3")),
        ("models:/iris@champion", ModelReference("iris", alias="champion")),
        ("models:/iris/Production", ModelReference("iris", stage="Production")),
        ("iris@challenger", ModelReference("iris", alias="challenger")),
        ("iris/12", ModelReference("iris", version="12")),
        ("models:/two words/latest", ModelReference("two words", stage="latest")),
    ],
)
def test_every_form_of_reference_is_parsed(text: str, reference: ModelReference) -> None:
    assert parse_reference(text) == reference
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize("text", ["", "models:/", "a/b/c", "a@b@c", "runs:/abc/model", "a@b/3"])
def test_an_invalid_reference_is_rejected(text: str) -> None:
    with pytest.raises(NotFoundError, match="not a reference to a model"):
        parse_reference(text)


def test_a_version_has_what_was_registered(registry: Registry, register: Register) -> None:
    made = register("m", {"f1_score": 0.75})
    assert made.number == "1"
    assert made.candidate == "ridge"
    assert made.stage == "None"
    assert made.metrics == {"f1_score": 0.75}
    assert made.status == "READY"
    assert time.time() - 60 < made.created <= time.time() + 1
    assert registry.versions("m", metrics=True) == [made]


def test_unknown_models_versions_and_aliases_list_the_known_ones(
    registry: Registry, register: Register
) -> None:
    with pytest.raises(NotFoundError, match="No model is registered"):
        registry.model("m")
    register("iris")
    register("wine")
    for ask in (registry.model, registry.versions, registry.latest, registry.resolve):
        with pytest.raises(NotFoundError, match="Known models: iris, wine"):
            ask("rose")
    with pytest.raises(NotFoundError, match=r"no version 9\. Its versions: 1"):
        registry.resolve("models:/iris/9")
    with pytest.raises(NotFoundError, match=r"no alias 'gold'"):
        registry.resolve("models:/iris@gold")
    with pytest.raises(NotFoundError, match=r"no version in stage 'Production'.*promote iris"):
        registry.resolve("models:/iris/Production")


def test_a_plain_name_means_the_champion_or_the_latest_with_a_bundle(
    registry: Registry, register: Register
) -> None:
    first, second = register(), register()
    register(bundled=False)
    assert registry.resolve("m").number == "2"
    registry.set_champion(first)
    assert registry.resolve("m").number == "1"
    assert registry.resolve("m", follow="latest").number == "2"
    assert registry.resolve("models:/m/latest").number == "2"
    assert registry.resolve("m", stage="latest").number == "2"
    assert registry.resolve("models:/m/2").digest == second.digest


def test_without_any_bundle_the_newest_version_is_used(
    registry: Registry, register: Register
) -> None:
    register(bundled=False)
    register(bundled=False)
    assert registry.resolve("m").number == "2"
    assert registry.resolve("m").digest is None


@pytest.mark.parametrize("word", ["Production", "production", "champion"])
def test_stages_and_aliases_find_the_champion(
    word: str, registry: Registry, register: Register
) -> None:
    registry.set_champion(register())
    register()
    assert registry.resolve("m", stage=word).number == "1"
    assert registry.resolve(f"models:/m/{word}").number == "1"


@pytest.mark.filterwarnings("ignore:.*transition_model_version_stage:FutureWarning")
def test_mlflows_old_stages_are_found(
    registry: Registry, register: Register, client: MlflowClient
) -> None:
    register(bundled=False)
    register(bundled=False)
    client.transition_model_version_stage("m", "1", "Production")
    assert registry.resolve("m", stage="Production").number == "1"
    assert registry.version("m", 1).stage == "Production"


def stages(registry: Registry) -> dict[str, str]:
    return {v.number: v.stage for v in registry.versions("m")}


def tags(registry: Registry) -> dict[str, str | None]:
    return {v.number: v.tags.get("stage") for v in registry.versions("m")}


def test_set_champion_moves_the_alias_and_mirrors_it_in_the_stages(
    registry: Registry, register: Register
) -> None:
    first, second, third = register(), register(), register()
    assert registry.set_champion(first) is None
    registry.set_challenger(second)
    assert stages(registry) == {"1": "Production", "2": "Staging", "3": "None"}
    replaced = registry.set_champion(second)
    assert replaced is not None
    assert replaced.number == "1"
    assert registry.model("m").aliases == {"champion": "2", "previous": "1"}
    assert stages(registry) == {"1": "Archived", "2": "Production", "3": "None"}
    assert tags(registry) == {"1": "Archived", "2": "Production", "3": None}
    registry.set_champion(third)
    assert registry.model("m").aliases == {"champion": "3", "previous": "2"}
    assert tags(registry) == {"1": "Archived", "2": "Archived", "3": "Production"}


def test_setting_the_champion_again_changes_nothing(registry: Registry, register: Register) -> None:
    first, second = register(), register()
    registry.set_champion(first)
    registry.set_champion(second)
    assert registry.set_champion(second) is None
    assert registry.model("m").aliases == {"champion": "2", "previous": "1"}


def test_there_is_exactly_one_champion_at_every_step_of_set_champion(
    registry: Registry, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop after each of its calls in turn: readers see the old or the new champion, and a second
    call completes what was left undone."""

    class StoppedError(Exception):
        pass

    first, second = register(), register()
    real = registry._connection.call
    for steps in range(1, 40):
        registry.set_champion(first)
        registry.set_tags(second, {"stage": "None"})
        budget = [steps]

        def limited(ask: Any, budget: list[int] = budget) -> Any:
            if not budget[0]:
                raise StoppedError
            budget[0] -= 1
            return real(ask)

        monkeypatch.setattr(registry._connection, "call", limited)
        try:
            registry.set_champion(second)
            stopped = False
        except StoppedError:
            stopped = True
        monkeypatch.setattr(registry._connection, "call", real)
        champion = registry.resolve("m", stage="Production").number
        assert champion in ("1", "2")
        assert [n for n, stage in stages(registry).items() if stage == "Production"].count(
            champion
        ) == 1
        registry.set_champion(second)
        assert stages(registry) == {"1": "Archived", "2": "Production"}
        assert tags(registry) == {"1": "Archived", "2": "Production"}
        assert registry.model("m").aliases["champion"] == "2"
        if not stopped:
            break
    assert not stopped, "the crowning took more steps than the test looked at"


def test_a_reader_always_finds_a_champion(uri: str, registry: Registry, register: Register) -> None:
    versions = [register(), register()]
    registry.set_champion(versions[0])
    done, missing, seen = threading.Event(), [], set()

    def read() -> None:
        reader = Registry(uri)
        while not done.is_set():
            champion = reader.by_alias("m", "champion")
            seen.add(champion.number if champion else None)
            if champion is None:
                missing.append(time.time())

    thread = threading.Thread(target=read)
    thread.start()
    for n in range(1, 13):
        registry.set_champion(versions[n % 2])
    done.set()
    thread.join()
    assert not missing
    assert seen <= {"1", "2"}


def test_the_champion_cannot_be_archived_or_made_challenger(
    registry: Registry, register: Register
) -> None:
    first, second = register(), register()
    registry.set_champion(first)
    for act in (registry.retire, registry.set_challenger):
        with pytest.raises(ConflictError, match=r"is the champion.*Promote another"):
            act(first)
    registry.set_challenger(second)
    registry.retire(second)
    assert registry.model("m").aliases == {"champion": "1"}
    assert stages(registry) == {"1": "Production", "2": "Archived"}


def test_a_new_challenger_replaces_the_old_one(registry: Registry, register: Register) -> None:
    first, second = register(), register()
    registry.set_challenger(first)
    registry.set_challenger(second)
    assert registry.model("m").aliases == {"challenger": "2"}
    assert tags(registry) == {"1": "None", "2": "Staging"}


def test_an_alias_moved_in_mlflow_overrides_the_tags(
    registry: Registry, register: Register, client: MlflowClient
) -> None:
    registry.set_champion(register())
    register()
    client.set_registered_model_alias("m", "champion", "2")
    assert stages(registry) == {"1": "Archived", "2": "Production"}


def test_lists_read_all_pages(
    registry: Registry,
    register: Register,
    client: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = register("m", {"f1_score": 0.5})
    monkeypatch.setattr("tidemill.stores.mlflow.registry.PAGE_SIZE", 3)
    monkeypatch.setattr("tidemill.stores.mlflow.registry.RUNS_PER_QUERY", 4)
    other = client.create_experiment("other")
    for n in range(10):
        run = client.create_run(
            other if n % 2 else client.get_experiment_by_name("e").experiment_id
        )
        client.log_metric(run.info.run_id, "f1_score", n / 10)
        client.create_model_version("m", first.source, run.info.run_id)
    found = registry.versions("m", metrics=True)
    assert [v.number for v in found] == [str(n) for n in range(11, 0, -1)]
    assert [v.metrics["f1_score"] for v in found] == [n / 10 for n in range(9, -1, -1)] + [0.5]
    for name in "abcdefg":
        client.create_registered_model(name)
    assert [m.name for m in registry.models()] == [*"abcdefgm"]


def test_a_version_whose_run_is_gone_has_no_metrics(
    registry: Registry, register: Register, client: MlflowClient
) -> None:
    version = register("m", {"f1_score": 0.5})
    client.create_model_version("m", version.source)
    client.create_model_version("m", version.source, "no-such-run")
    assert [v.metrics for v in registry.versions("m", metrics=True)] == [{}, {}, {"f1_score": 0.5}]


def test_models_are_found_by_their_tag(
    registry: Registry, register: Register, client: MlflowClient
) -> None:
    register("a")
    register("b")
    client.set_registered_model_tag("b", "serve", "yes")
    assert [m.name for m in registry.models(tag=("serve", "yes"))] == ["b"]


def test_a_name_may_contain_a_quote(registry: Registry, register: Register) -> None:
    register("it's")
    assert [v.number for v in registry.versions("it's")] == ["1"]


def test_a_fetched_bundle_is_the_registered_one(
    registry: Registry, register: Register, tmp_path: Path
) -> None:
    version = register()
    fetched = registry.fetch_bundle(version, tmp_path / "into")
    assert fetched.digest == version.digest
    assert fetched.model_path.read_bytes() == b"m 0"


def test_a_bundle_changed_in_the_artifact_store_is_rejected(
    registry: Registry, register: Register, tmp_path: Path
) -> None:
    version = register()
    (stored,) = (tmp_path / "artifacts").rglob("model.onnx")
    stored.write_bytes(b"evil")
    with pytest.raises(BundleError, match="sha256"):
        registry.fetch_bundle(version, tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []


def test_a_missing_bundle_is_reported(
    registry: Registry, register: Register, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match="has no bundle"):
        registry.fetch_bundle(register(bundled=False), tmp_path / "into")
    version = register()
    shutil.rmtree(tmp_path / "artifacts")
    with pytest.raises(BundleError, match="is gone"):
        registry.fetch_bundle(version, tmp_path / "into")


def test_evidence_is_stored_with_the_run(
    registry: Registry, register: Register, client: MlflowClient, tmp_path: Path
) -> None:
    version = register()
    uri = registry.log_evidence(version, "gate/evidence-v1.json", {"passed": True})
    assert uri == f"runs:/{version.run_id}/gate/evidence-v1.json"
    kept = client.download_artifacts(str(version.run_id), "gate/evidence-v1.json", str(tmp_path))
    assert msgspec.json.decode(Path(kept).read_bytes()) == {"passed": True}


def test_a_long_tag_is_cut_between_characters(registry: Registry, register: Register) -> None:
    version = register()
    registry.set_tags(version, {"note": "é" * 4000})
    assert registry.version("m", 1).tags["note"] == "é" * 2500


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A port with no listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_a_server_that_is_down_is_an_error_within_seconds(silent_server: str) -> None:
    registry = Registry(silent_server)
    started = time.monotonic()
    with pytest.raises(UnavailableError, match=r"cannot be reached.*Start it"):
        registry.models()
    assert time.monotonic() - started < 60, "MLflow's own retries would take minutes"


def test_a_store_that_is_not_a_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"certainly not SQLite" * 100)
    with pytest.raises(UnavailableError, match="MLflow failed"):
        Registry(f"sqlite:///{tmp_path / 'mlflow.db'}").models()

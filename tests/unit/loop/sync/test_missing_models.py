"""A lost registry or shelf takes no model out of service; a deleted model is taken off."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.bundles import make_bundle
from tidemill.errors import UnavailableError
from tidemill.loop.sync.missing_models import accept_missing
from tidemill.loop.sync.selection import ModelSelection
from tidemill.loop.sync.shelf_sync import ShelfSync
from tidemill.serving.shelf.shelf import read_state
from tidemill.stores.mlflow.registry import Registry

pytestmark = pytest.mark.filterwarnings(  # MLflow's own mappers, under SQLAlchemy 2.1
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return tmp_path / "shelf"


@pytest.fixture
def registry(tmp_path: Path, mlflow_template: Path) -> Registry:
    """A real MLflow store with the models a and b."""
    registry = open_store(tmp_path, mlflow_template, "first")
    client = registry.connection.client
    experiment = client.create_experiment("e", artifact_location=str(tmp_path / "artifacts"))
    for name in ("a", "b"):
        register(client, experiment, tmp_path, name)
    return registry


def open_store(tmp_path: Path, template: Path, name: str) -> Registry:
    path = tmp_path / name / "mlflow.db"
    path.parent.mkdir()
    shutil.copyfile(template, path)
    return Registry(f"sqlite:///{path}")


def register(client: MlflowClient, experiment: str, tmp_path: Path, name: str) -> None:
    made = make_bundle(tmp_path / "made" / name, name.encode())
    run = client.create_run(experiment)
    client.log_artifacts(run.info.run_id, str(made.path), "bundle")
    client.create_registered_model(name)
    source = f"{run.info.artifact_uri}/model"
    client.create_model_version(
        name, source, run.info.run_id, tags={"tidemill.bundle": made.digest}
    )


def change(tmp_path: Path, name: str, *statements: str) -> None:
    with closing(sqlite3.connect(tmp_path / name / "mlflow.db")) as store, store:
        for statement in statements:
            store.execute(statement)


def update(registry: Registry, shelf: Path) -> dict[str, str]:
    """Update the shelf in a new process's state; returns the problems."""
    return dict(ShelfSync(registry, shelf, ModelSelection(every=True)).once().problems)


def served(shelf: Path) -> set[str]:
    return set(read_state(shelf).models)


EMPTY = ("DELETE FROM model_version_tags", "DELETE FROM model_versions")
EMPTIED = (*EMPTY, "DELETE FROM registered_models")


def test_an_emptied_registry_takes_nothing_off(
    registry: Registry, shelf: Path, tmp_path: Path
) -> None:
    sync = ShelfSync(registry, shelf, ModelSelection(every=True))
    sync.once()
    change(tmp_path, "first", *EMPTIED)
    problems = sync.once().problems
    assert served(shelf) == {"a", "b"}
    assert "lists no model at all" in problems["a"]
    assert "--accept-missing" in problems["b"]
    assert update(registry, shelf).keys() == {"a", "b"}, "another process keeps them too"
    accept_missing(shelf)
    assert update(registry, shelf) == {}
    assert served(shelf) == set()


def test_another_registry_takes_nothing_off_until_that_is_accepted(
    registry: Registry, shelf: Path, tmp_path: Path, mlflow_template: Path
) -> None:
    update(registry, shelf)
    other = open_store(tmp_path, mlflow_template, "second")
    change(tmp_path, "second", "UPDATE experiments SET creation_time = creation_time + 1")
    client = other.connection.client
    experiment = client.create_experiment("e", artifact_location=str(tmp_path / "more"))
    register(client, experiment, tmp_path, "c")
    sync = ShelfSync(other, shelf, ModelSelection(every=True))
    assert sync.once().problems.keys() == {"a", "b"}
    assert served(shelf) == {"a", "b", "c"}
    sync._next_full_check = 0.0
    assert sync.once().problems.keys() == {"a", "b"}, "a second look is no confirmation"
    accept_missing(shelf)
    assert not sync.once().problems
    assert served(shelf) == {"c"}
    client.delete_registered_model("c")
    assert not sync.once().problems
    assert served(shelf) == set(), "the accepted registry is the known one now"


def test_deleted_models_are_taken_off_one_by_one(registry: Registry, shelf: Path) -> None:
    sync = ShelfSync(registry, shelf, ModelSelection(every=True))
    sync.once()
    for name, rest in (("a", {"b"}), ("b", set())):
        registry.connection.client.delete_registered_model(name)
        assert not sync.once().problems
        assert served(shelf) == rest


def test_a_shelf_from_before_identities_keeps_its_models(
    registry: Registry, shelf: Path, tmp_path: Path
) -> None:
    sync = ShelfSync(registry, shelf, ModelSelection(every=True))
    sync.once()
    path = shelf / "state.json"
    path.write_text(path.read_text().replace('"registry"', '"unused"'))
    registry.connection.client.delete_registered_model("a")
    assert update(registry, shelf).keys() == {"a"}
    assert served(shelf) == {"a", "b"}


@pytest.mark.parametrize("content", [None, "", "{", "{}", "[]"])
def test_a_lost_state_is_not_replaced_by_an_empty_one(
    registry: Registry, shelf: Path, tmp_path: Path, content: str | None
) -> None:
    update(registry, shelf)
    change(tmp_path, "first", *EMPTIED)
    state = shelf / "state.json"
    state.unlink()
    if content is not None:
        state.write_text(content)
    with pytest.raises(UnavailableError, match="lists no model"):
        update(registry, shelf)
    assert state.exists() == (content is not None)


def test_a_lost_shelf_is_written_again(registry: Registry, shelf: Path) -> None:
    sync = ShelfSync(registry, shelf, ModelSelection(every=True))
    sync.once()
    shutil.rmtree(shelf)
    sync._next_full_check = 0.0
    sync.once()
    assert served(shelf) == {"a", "b"}
    assert len(list(shelf.glob("*/*/manifest.json"))) == 2

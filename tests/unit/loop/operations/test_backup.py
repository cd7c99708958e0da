"""Backup and restore: all state is restored, in another home and another kind of database."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from tests.servers import fresh_database
from tidemill.archives import extract
from tidemill.errors import ConflictError, DataError, SettingsError
from tidemill.loop.operations.backup import backup
from tidemill.loop.operations.restore import restore
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.audit import AuditEntry
from tidemill.stores.database.database import Database
from tidemill.stores.database.schema import migrate
from tidemill.stores.database.tables import predictions
from tidemill.stores.jobs.jobs import NewJob

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


def settings_for(home: Path, kind: str, server: str, stack: ExitStack) -> Settings:
    """A home on SQLite, or with both databases on PostgreSQL."""
    home.mkdir(parents=True, exist_ok=True)
    if kind == "sqlite":
        return Settings(home=home)
    ours, theirs = (stack.enter_context(fresh_database(server)) for _ in range(2))
    database = Database(ours)
    migrate(database)
    database.close()
    return Settings(home=home, database_url=ours, tracking_uri=theirs)


@pytest.fixture
def filled(tmp_path: Path, mlflow_template: Path) -> Settings:
    """A home with some rows in every table."""
    settings = Settings(home=tmp_path / "home")
    settings.home.mkdir()
    shutil.copy(mlflow_template, settings.home / "mlflow.db")
    fill(settings)
    return settings


FEATURES = b"\x00\xff\n\\"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def fill(settings: Settings) -> None:
    """Write some rows to every table."""
    platform = Platform.open(settings)
    platform.keys.create(("train",), actor="ops", name="é")
    platform.audit.append(
        AuditEntry("ops", "promote", "iris", "1", details={"p": 1e-9, "b": [True]})
    )
    job = platform.jobs.claim(
        platform.submit(NewJob("train", "iris", params={"C": 1.5}))[0].id, "w"
    )
    assert job is not None
    platform.jobs.succeed(job, {"version": "1"})
    row = {"id": "p1", "time": 1.5, "model": "iris", "version": "1", "output": '"é"'}
    row |= {"encoding": "f4", "features": FEATURES}
    with platform.database.write() as connection:
        connection.execute(insert(predictions), row)
    client = platform.tracking
    place = settings.artifact_root.as_uri() + "/iris"
    experiment = client.create_experiment("iris", artifact_location=place)
    run = client.create_run(experiment, tags={"note": "line\u2028separator"}).info.run_id
    client.log_metric(run, "f1_score", 0.875)
    client.log_param(run, "C", 1.5)
    client.log_text(run, "hello", "notes/hello.txt")
    client.set_terminated(run)
    client.create_registered_model("iris")
    client.create_model_version("iris", f"{place}/{run}/artifacts", run, tags={"stage": "None"})
    client.set_registered_model_alias("iris", "champion", "1")
    (settings.journal).mkdir(exist_ok=True)
    (settings.journal / "segment").write_bytes(b"\x00records")
    platform.close()


def assert_filled(settings: Settings) -> None:
    platform = Platform.open(settings)
    (job,) = platform.jobs.page().items
    assert (job.state, job.params, job.result) == ("succeeded", {"C": 1.5}, {"version": "1"})
    (row,) = platform.database.rows(select(predictions))
    assert (row["output"], bytes(row["features"])) == ('"é"', FEATURES)
    assert [record.name for record in platform.keys.list()] == ["é"]
    actions = [row["action"] for row in platform.audit.page().items]
    assert actions == ["restore", "promote", "key.create"]
    assert platform.audit.verify().intact
    client = platform.tracking
    version = client.get_model_version_by_alias("iris", "champion")
    run = client.get_run(version.run_id)
    assert (run.data.metrics, run.data.params) == ({"f1_score": 0.875}, {"C": "1.5"})
    assert run.data.tags["note"] == "line\u2028separator"
    assert str(settings.artifact_root) in run.info.artifact_uri
    assert str(settings.artifact_root) in version.source
    found = client.download_artifacts(run.info.run_id, "notes/hello.txt")
    assert Path(found).read_text() == "hello"
    assert (settings.journal / "segment").read_bytes() == b"\x00records"
    # New rows are numbered after the restored ones.
    client.log_metric(client.create_run(run.info.experiment_id).info.run_id, "f1_score", 0.5)
    platform.audit.append(AuditEntry("ops", "promote"))
    platform.close()


@pytest.mark.parametrize(
    ("source", "target"),
    [("sqlite", "sqlite"), ("postgresql", "postgresql"), ("sqlite", "postgresql")],
)
def test_a_restored_system_equals_the_one_backed_up(
    source: str, target: str, tmp_path: Path, postgres_server_url: str, stack: ExitStack
) -> None:
    here = settings_for(tmp_path / "here", source, postgres_server_url, stack)
    fill(here)
    file = tmp_path / "backups" / "monday.tar.gz"
    contents = backup(here, file)
    assert contents.rows["database"]["jobs"] == 1
    assert contents.rows["mlflow"]["runs"] == 1
    assert file.stat().st_mode & 0o077 == 0
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    there = settings_for(tmp_path / "there", target, postgres_server_url, stack)
    restore(there, file, actor="ops")
    assert_filled(there)


def test_existing_state_is_replaced_only_with_force(tmp_path: Path, filled: Settings) -> None:
    settings = filled
    file = tmp_path / "backup.tar.gz"
    backup(settings, file)
    with pytest.raises(ConflictError, match="existing state"):
        restore(settings, file, actor="ops")
    platform = Platform.open(settings)
    platform.submit(NewJob("train", "wine"))
    platform.close()
    restore(settings, file, actor="ops", force=True)
    assert_filled(settings)


def test_a_damaged_backup_changes_nothing(tmp_path: Path, filled: Settings) -> None:
    file = tmp_path / "backup.tar.gz"
    backup(filled, file)
    whole = file.read_bytes()
    target = Settings(home=tmp_path / "other")
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a complete backup"):
        restore(target, file, actor="ops")
    unpacked = tmp_path / "unpacked"
    file.write_bytes(whole)
    extract(file, unpacked, "r:gz")
    (unpacked / "database" / "jobs.jsonl").write_text('["id"]\n')
    with tarfile.open(file, "w:gz") as tar:
        tar.add(unpacked, ".")
    with pytest.raises(DataError, match="jobs"):
        restore(target, file, actor="ops")
    assert not (target.home / "tidemill.db").exists()


def test_the_database_behind_an_mlflow_server_must_be_given(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, tracking_uri="http://127.0.0.1:1")
    with pytest.raises(SettingsError, match="database behind it"):
        backup(settings, tmp_path / "backup.tar.gz")


def test_nothing_restored_is_readable_by_others(tmp_path: Path, filled: Settings) -> None:
    before = os.umask(0o022)
    try:
        backup(filled, tmp_path / "b.tar.gz")
        target = Settings(home=tmp_path / "other")
        restore(target, tmp_path / "b.tar.gz", actor="test")
    finally:
        os.umask(before)
    found = [tmp_path / "b.tar.gz", target.home, *target.home.iterdir()]
    wide = {path.name: oct(path.stat().st_mode) for path in found if path.stat().st_mode & 0o077}
    assert {name for name in wide if not name.endswith(".lock")} <= {"mlflow.db"}, wide
    assert target.home.stat().st_mode & 0o777 == 0o700

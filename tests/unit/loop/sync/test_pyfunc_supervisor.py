"""The keeper of workers: starts, restarts, and ends none before its heir stands."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tidemill import bundle
from tidemill.bundle import Bundle, Example, Manifest, ModelInput, ModelOutputs
from tidemill.errors import ExportError
from tidemill.loop.sync import pyfunc_supervisor as keeping
from tidemill.loop.sync.pyfunc_supervisor import PyfuncBundleWatch, PyfuncSupervisor, unpack
from tidemill.processes import RestartPolicy
from tidemill.serving.model.remote_runtime import loaded_mark
from tidemill.serving.shelf.shelf import ShelfState, install_bundle, write_state
from tidemill.signature import Column, Signature


def make(folder: Path, content: str, model: str = "m", name: str = "MLmodel") -> Bundle:
    """A bundle around an archive of one file."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "model.tar", "w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content.encode()))
    signature = Signature("regression", "y", (Column("x", "number"),))
    (folder / bundle.SIGNATURE).write_bytes(msgspec.json.encode(signature))
    (folder / bundle.PROFILE).write_bytes(b"{}")
    (folder / bundle.EXAMPLE).write_bytes(msgspec.json.encode(Example((), ())))
    inputs = (ModelInput("float64", "float64", ("x",)),)
    manifest = Manifest(1, model, "", "pyfunc", {}, inputs, ModelOutputs(value="value"))
    return bundle.seal(folder, manifest)


@pytest.fixture
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PyfuncSupervisor]:
    """A keeper whose workers only sleep, without pauses and without patience."""

    def start(folder: Path, socket: Path, model: Path) -> subprocess.Popen[bytes]:
        assert (model / "MLmodel").is_file()
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

    monkeypatch.setattr(keeping, "start_worker", start)
    monkeypatch.setattr(keeping, "RESTARTS", RestartPolicy((0.0,), 30.0, 0.0))
    monkeypatch.setattr(keeping, "LEAVING_SECONDS", -1.0)
    keeper = PyfuncSupervisor(tmp_path / "home", tmp_path / "shelf")
    yield keeper
    keeper.close()


def test_a_worker_that_dies_is_started_again(keeper: PyfuncSupervisor, tmp_path: Path) -> None:
    held = make(tmp_path / "made", "1")
    keeper.reconcile([held])
    worker = keeper.workers[held.digest]
    first = worker.process
    assert first is not None
    loaded_mark(worker.socket).touch()
    assert worker.loaded
    first.kill()
    first.wait()
    for _ in range(2):
        keeper.reconcile([held])
    assert worker.process is not first
    assert worker.running
    assert not worker.loaded  # it has to load its model first


def test_a_worker_stays_until_its_heir_stands(keeper: PyfuncSupervisor, tmp_path: Path) -> None:
    old, new = make(tmp_path / "old", "1"), make(tmp_path / "new", "2")
    keeper.reconcile([old])
    for _ in range(3):
        keeper.reconcile([new])
    assert set(keeper.workers) == {old.digest, new.digest}
    process = keeper.workers[old.digest].process
    loaded_mark(keeper.workers[new.digest].socket).touch()
    for _ in range(2):
        keeper.reconcile([new])
    assert set(keeper.workers) == {new.digest}
    assert process is not None
    assert process.poll() is not None


def test_another_models_trouble_keeps_no_worker(keeper: PyfuncSupervisor, tmp_path: Path) -> None:
    gone, other = make(tmp_path / "gone", "1"), make(tmp_path / "other", "2", model="other")
    keeper.reconcile([gone, other])
    for _ in range(2):
        keeper.reconcile([other])
    assert set(keeper.workers) == {other.digest}


def test_what_the_shelf_names_is_wanted(tmp_path: Path) -> None:
    shelf, held = tmp_path / "shelf", make(tmp_path / "made", "1")
    wanted = PyfuncBundleWatch(shelf)
    assert wanted.look() == []
    placed = install_bundle(shelf, "m", "1", held.path, held.digest)
    write_state(shelf, ShelfState(models={"m": placed}))
    assert [b.digest for b in wanted.look()] == [held.digest]
    (shelf / "state.json").write_text("{")
    assert [b.digest for b in wanted.look()] == [held.digest]


def test_an_archive_that_climbs_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="unpacked"):
        unpack(make(tmp_path / "made", "x", name="../evil"))
    assert not (tmp_path / "evil").exists()


def test_an_absolute_name_in_an_archive_stays_inside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    with unpack(make(tmp_path / "made", "x", name=str(outside))) as folder:
        assert [p.name for p in Path(folder).rglob("*") if p.is_file()] == ["outside"]
    assert not outside.exists()

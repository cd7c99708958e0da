"""The pyfunc supervisor: starts and restarts workers, and stops none before its successor loads."""

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
from tidemill.loop.sync import pyfunc_supervisor
from tidemill.loop.sync.pyfunc_supervisor import PyfuncBundleWatch, PyfuncSupervisor, unpack
from tidemill.processes import RestartPolicy
from tidemill.serving.model.remote_runtime import loaded_mark
from tidemill.serving.shelf.shelf import ShelfState, install_bundle, write_state
from tidemill.signature import Column, Signature


def make(
    folder: Path, content: str, model: str = "m", name: str = "MLmodel", link: str = ""
) -> Bundle:
    """A bundle around an archive of one file, or of one link."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "model.tar", "w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        if link:
            entry.type, entry.linkname = tarfile.SYMTYPE, link
        archive.addfile(entry, io.BytesIO(content.encode()))
    signature = Signature("regression", "y", (Column("x", "number"),))
    (folder / bundle.SIGNATURE).write_bytes(msgspec.json.encode(signature))
    (folder / bundle.PROFILE).write_bytes(b"{}")
    (folder / bundle.EXAMPLE).write_bytes(msgspec.json.encode(Example((), ())))
    inputs = (ModelInput("float64", "float64", ("x",)),)
    manifest = Manifest(1, model, "", "pyfunc", {}, inputs, ModelOutputs(value="value"))
    return bundle.seal(folder, manifest)


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PyfuncSupervisor]:
    """A supervisor whose workers only sleep, without restart delays."""

    def start(folder: Path, socket: Path, model: Path) -> subprocess.Popen[bytes]:
        assert (model / "MLmodel").is_file()
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        return subprocess.Popen(command, process_group=0)

    monkeypatch.setattr(pyfunc_supervisor, "start_worker", start)
    monkeypatch.setattr(pyfunc_supervisor, "RESTARTS", RestartPolicy((0.0,), 30.0, 0.0))
    monkeypatch.setattr(pyfunc_supervisor, "LEAVING_SECONDS", -1.0)
    supervisor = PyfuncSupervisor(tmp_path / "home", tmp_path / "shelf")
    yield supervisor
    supervisor.close()


def test_a_worker_that_dies_is_restarted(supervisor: PyfuncSupervisor, tmp_path: Path) -> None:
    held = make(tmp_path / "made", "1")
    supervisor.reconcile([held])
    worker = supervisor.workers[held.digest]
    first = worker.process
    assert first is not None
    loaded_mark(worker.socket).touch()
    assert worker.loaded
    first.kill()
    first.wait()
    for _ in range(2):
        supervisor.reconcile([held])
    assert worker.process is not first
    assert worker.running
    assert not worker.loaded  # it has to load its model first


def test_a_worker_runs_until_its_successor_has_loaded(
    supervisor: PyfuncSupervisor, tmp_path: Path
) -> None:
    old, new = make(tmp_path / "old", "1"), make(tmp_path / "new", "2")
    supervisor.reconcile([old])
    for _ in range(3):
        supervisor.reconcile([new])
    assert set(supervisor.workers) == {old.digest, new.digest}
    process = supervisor.workers[old.digest].process
    loaded_mark(supervisor.workers[new.digest].socket).touch()
    for _ in range(2):
        supervisor.reconcile([new])
    assert set(supervisor.workers) == {new.digest}
    assert process is not None
    assert process.poll() is not None


def test_a_worker_does_not_wait_for_another_models_worker(
    supervisor: PyfuncSupervisor, tmp_path: Path
) -> None:
    gone, other = make(tmp_path / "gone", "1"), make(tmp_path / "other", "2", model="other")
    supervisor.reconcile([gone, other])
    for _ in range(2):
        supervisor.reconcile([other])
    assert set(supervisor.workers) == {other.digest}


def test_a_bundle_that_cannot_be_unpacked_affects_no_other_worker(
    supervisor: PyfuncSupervisor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = make(tmp_path / "bad", "", link="MLmodel")
    held = make(tmp_path / "made", "1", model="other")
    supervisor.reconcile([bad, held])
    worker = supervisor.workers[held.digest]
    first = worker.process
    assert first is not None
    first.kill()
    first.wait()
    for _ in range(3):
        supervisor.reconcile([bad, held])
    assert worker.running
    assert set(supervisor.workers) == {held.digest}
    assert caplog.text.count("without an end") == 1


def test_the_watch_lists_the_pyfunc_bundles_of_the_shelf(tmp_path: Path) -> None:
    shelf, held = tmp_path / "shelf", make(tmp_path / "made", "1")
    wanted = PyfuncBundleWatch(shelf)
    assert wanted.poll() == []
    placed = install_bundle(shelf, "m", "1", held.path, held.digest)
    write_state(shelf, ShelfState(models={"m": placed}))
    assert [b.digest for b in wanted.poll()] == [held.digest]
    (shelf / "state.json").write_text("{")
    assert [b.digest for b in wanted.poll()] == [held.digest]


def test_an_archive_with_a_parent_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="unpacked"):
        unpack(make(tmp_path / "made", "x", name="../evil"))
    assert not (tmp_path / "evil").exists()


def test_an_absolute_path_in_an_archive_is_unpacked_inside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    with unpack(make(tmp_path / "made", "x", name=str(outside))) as folder:
        assert [p.name for p in Path(folder).rglob("*") if p.is_file()] == ["outside"]
    assert not outside.exists()

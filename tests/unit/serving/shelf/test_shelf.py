"""The shelf: a bundle is installed completely or not at all, and disk use is limited."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bundles import make_bundle
from tidemill.bundle import Bundle
from tidemill.errors import BundleError
from tidemill.serving.shelf import shelf as shelves
from tidemill.serving.shelf.shelf import (
    ShelfEntry,
    ShelfState,
    StateWatch,
    collect_garbage,
    folder_name,
    install_bundle,
    open_bundle,
    read_state,
    shelf_bytes,
    write_state,
)


@pytest.fixture
def source(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "source")


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return tmp_path / "shelf"


def visible(shelf: Path) -> list[str]:
    return sorted(p.relative_to(shelf).as_posix() for p in shelf.glob("*/*"))


def test_an_installed_bundle_opens_by_version_and_digest(shelf: Path, source: Bundle) -> None:
    placed = install_bundle(shelf, "iris classifier", "3", source.path, source.digest)
    assert placed.folder == f"iris%20classifier/3-{source.digest[:12]}"
    assert open_bundle(shelf, placed).digest == source.digest
    assert [p.name for p in shelf.iterdir()] == ["iris%20classifier"]


def test_installing_twice_keeps_the_first_copy(shelf: Path, source: Bundle) -> None:
    first = install_bundle(shelf, "m", "1", source.path, source.digest)
    before = (shelf / first.folder / "model.onnx").stat()
    shutil.rmtree(source.path)
    assert install_bundle(shelf, "m", "1", source.path, source.digest) == first
    assert (shelf / first.folder / "model.onnx").stat() == before


def test_a_damaged_copy_on_the_shelf_is_replaced(shelf: Path, source: Bundle) -> None:
    placed = install_bundle(shelf, "m", "1", source.path, source.digest)
    (shelf / placed.folder / "model.onnx").write_bytes(b"rotten")
    with pytest.raises(BundleError):
        open_bundle(shelf, placed)
    install_bundle(shelf, "m", "1", source.path, source.digest)
    assert open_bundle(shelf, placed).model_path.read_bytes() == b"model"


DAMAGE = {
    "truncated": lambda f: os.truncate(f / "model.onnx", 2),
    "changed": lambda f: (f / "model.onnx").write_bytes(b"muddy"),
    "missing": lambda f: (f / "model.onnx").unlink(),
    "half copied": lambda f: (f / "manifest.json").unlink(),
    "manifest changed": lambda f: (f / "manifest.json").write_bytes(b"{}"),
    "file added": lambda f: (f / "extra.py").write_text("import os"),
    "link": lambda f: (f / "link").symlink_to("/etc/passwd"),
    "folder added": lambda f: (f / "folder").mkdir(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_corrupt_bundle_is_refused_and_leaves_no_files(
    damage: str, shelf: Path, source: Bundle
) -> None:
    DAMAGE[damage](source.path)
    with pytest.raises(BundleError):
        install_bundle(shelf, "m", "1", source.path, source.digest)
    assert visible(shelf) == []
    assert [p for p in shelf.iterdir() if p.name.startswith(".")] == []


def test_a_bundle_of_another_digest_is_refused(shelf: Path, source: Bundle) -> None:
    with pytest.raises(BundleError, match="sha256"):
        install_bundle(shelf, "m", "1", source.path, "0" * 64)


def test_a_full_disk_is_reported_and_leaves_no_files(
    shelf: Path, source: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"ha")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shelves.shutil, "copyfile", full)
    with pytest.raises(BundleError, match=r"Version 1 of 'm' .*No space left"):
        install_bundle(shelf, "m", "1", source.path, source.digest)
    assert visible(shelf) == []
    assert [p for p in shelf.iterdir() if p.name.startswith(".")] == []


def test_an_entry_cannot_lead_out_of_the_shelf(shelf: Path, source: Bundle) -> None:
    shelf.mkdir()
    for folder in ("../source", str(source.path), "."):
        with pytest.raises(BundleError, match="outside the shelf"):
            open_bundle(shelf, ShelfEntry(version="1", folder=folder, digest=source.digest))


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)


@given(model=NAMES, version=NAMES, digest=st.text("0123456789abcdef", min_size=64, max_size=64))
def test_any_name_becomes_one_visible_folder_inside_the_shelf(
    model: str, version: str, digest: str
) -> None:
    first, _, second = folder_name(model, version[:20], digest).partition("/")
    for part in (first, second):
        assert "/" not in part
        assert not part.startswith(".") or part == second
        assert part not in (".", "..", "")
        assert len(part.encode()) <= 255


@given(one=NAMES, other=NAMES)
def test_two_models_never_share_a_folder(one: str, other: str) -> None:
    same = folder_name(one, "1", "d").split("/")[0] == folder_name(other, "1", "d").split("/")[0]
    assert same == (one == other)


def test_the_state_survives_the_round_trip_in_the_documented_format(shelf: Path) -> None:
    import json

    assert read_state(shelf) == ShelfState()
    entry = ShelfEntry(version="3", folder="m/3-abc", digest="abc", alias="champion")
    state = ShelfState(
        default="m", models={"m": entry}, problems={"n": "No bundle."}, synced_at=12.5
    )
    write_state(shelf, state)
    assert read_state(shelf) == state
    plain = json.loads((shelf / "state.json").read_text())
    assert plain["format"] == 1
    assert plain["default"] == "m"
    assert plain["models"]["m"] == {
        "version": "3",
        "folder": "m/3-abc",
        "digest": "abc",
        "alias": "champion",
    }
    assert [p.name for p in shelf.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b"{}", b"null", b"0", b"\0" * 300, b'"\xff"', b"[" * 5000,
        b'{"format": 1}', b'{"format": 2}', b'{"format": 1, "models": 3}',
        b'{"format": 1, "synced_at": 1.0}', b'{"models": {}, "synced_at": 1.0}',
        b'{"default": "\xff", "format": 1, "models": {}, "synced_at": 1.0}',
        b'{"format": 2, "models": {}, "synced_at": 1.0}',
    ],
)  # fmt: skip
def test_a_state_that_cannot_be_read_is_a_bundle_error(text: bytes, shelf: Path) -> None:
    shelf.mkdir()
    (shelf / "state.json").write_bytes(text)
    with pytest.raises(BundleError, match=r"state\.json"):
        read_state(shelf)


def test_a_watch_returns_each_change_once(shelf: Path) -> None:
    watch = StateWatch(shelf)
    assert watch.poll() == ShelfState()
    assert watch.poll() is None
    for version in ("1", "2"):
        state = ShelfState(models={"m": ShelfEntry(version=version, folder="f", digest="d")})
        write_state(shelf, state)
        assert watch.poll() == state
        assert watch.poll() is None


def test_a_watch_retries_a_state_that_could_not_be_read(shelf: Path) -> None:
    watch = StateWatch(shelf)
    write_state(shelf, ShelfState(default="a"))
    assert watch.poll() == ShelfState(default="a")
    (shelf / "state.json").write_text("{")
    for _ in range(2):
        with pytest.raises(BundleError):
            watch.poll()
    write_state(shelf, ShelfState(default="b"))
    assert watch.poll() == ShelfState(default="b")


def fill(
    shelf: Path, tmp_path: Path, model: str, versions: range, size: int = 10
) -> list[ShelfEntry]:
    placed = []
    for version in versions:
        content = f"{model} {version}".encode().ljust(size, b"-")
        made = make_bundle(tmp_path / "made" / model / str(version), content)
        placed.append(install_bundle(shelf, model, str(version), made.path, made.digest))
    return placed


def test_garbage_collection_keeps_the_newest_and_those_in_the_state(
    shelf: Path, tmp_path: Path
) -> None:
    placed = fill(shelf, tmp_path, "m", range(1, 13))
    other = fill(shelf, tmp_path, "other", range(1, 3))
    state = ShelfState(models={"m": placed[1]}, challengers={"m": placed[4]})
    gone = collect_garbage(shelf, state, keep=3)
    left = [placed[1].folder, placed[4].folder, placed[11].folder]
    assert visible(shelf) == sorted(left + [p.folder for p in other])
    assert len(gone) == 9
    assert open_bundle(shelf, placed[1])


def test_garbage_collection_enforces_the_limit_but_keeps_the_state(
    shelf: Path, tmp_path: Path
) -> None:
    placed = fill(shelf, tmp_path, "m", range(1, 6), size=100_000)
    for age, entry in enumerate(reversed(placed)):
        os.utime(shelf / entry.folder, (1e9 - age, 1e9 - age))
    collect_garbage(shelf, ShelfState(models={"m": placed[0]}), keep=5, max_bytes=250_000)
    assert visible(shelf) == sorted([placed[0].folder, placed[4].folder])
    assert shelf_bytes(shelf) < 250_000
    collect_garbage(shelf, ShelfState(models={"m": placed[0]}), keep=5, max_bytes=1)
    assert visible(shelf) == [placed[0].folder]


def test_garbage_collection_deletes_incomplete_files_of_dead_processes(
    shelf: Path, source: Bundle
) -> None:
    install_bundle(shelf, "m", "1", source.path, source.digest)
    for name in (".incoming-old", ".trash-old", ".incoming-new"):
        (shelf / name).mkdir()
        (shelf / name / "model.onnx").write_bytes(b"half")
    (shelf / ".state.json.old").write_text("half")
    for name in (".incoming-old", ".trash-old", ".state.json.old"):
        os.utime(shelf / name, (1e9, 1e9))
    collect_garbage(shelf, ShelfState())
    assert sorted(p.name for p in shelf.iterdir()) == [".incoming-new", "m"]


def test_garbage_collection_removes_the_folder_of_a_model_without_bundles(
    shelf: Path, source: Bundle
) -> None:
    install_bundle(shelf, "m", "1", source.path, source.digest)
    collect_garbage(shelf, ShelfState(), keep=0)
    assert list(shelf.iterdir()) == []

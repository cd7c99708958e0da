"""A bundle that was modified in any way is refused."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill import bundle
from tidemill.bundle import Manifest, ModelInput, ModelOutputs
from tidemill.errors import BundleError
from tidemill.signature import Column, Signature

MANIFEST = Manifest(
    format=bundle.FORMAT,
    model="m",
    created="2026-01-01T00:00:00+00:00",
    runtime="onnx",
    files={},
    inputs=(ModelInput("numbers", "float64", ("a",)),),
    outputs=ModelOutputs(value="value"),
)
SIGNATURE = Signature("regression", "y", (Column("a", "number"),))
CONTENT = {
    "signature.json": msgspec.json.encode(SIGNATURE),
    "model.onnx": bytes(range(256)),
    "profile.json": b'{"format": 1}',
    "example.json": b'{"rows": [[1.0]], "answers": [{"prediction": 2.0}]}',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    path.mkdir()
    for name, content in CONTENT.items():
        (path / name).write_bytes(content)
    bundle.seal(path, MANIFEST)
    return path


def test_a_whole_bundle_is_read(folder: Path) -> None:
    found = bundle.read(folder)
    assert found.signature == SIGNATURE
    assert found.manifest.files.keys() == CONTENT.keys()
    assert found.model_path.read_bytes() == CONTENT["model.onnx"]
    assert found.example().answers[0].prediction == 2.0
    assert found.profile() == {"format": 1}


@pytest.mark.parametrize("name", sorted(CONTENT))
def test_a_changed_byte_is_found(folder: Path, name: str) -> None:
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} does not match the manifest"):
        bundle.read(folder)


@pytest.mark.parametrize("name", sorted(CONTENT))
def test_a_truncated_file_is_found(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match="size or sha256 is different"):
        bundle.read(folder)


@pytest.mark.parametrize("name", sorted(CONTENT))
def test_a_missing_file_is_found(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"lacks {name}"):
        bundle.read(folder)


def test_an_added_file_is_found(folder: Path) -> None:
    (folder / "model.pkl").write_bytes(b"surprise")
    with pytest.raises(BundleError, match=r"model\.pkl"):
        bundle.read(folder)


def test_a_link_in_place_of_a_file_is_found(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (folder / "model.onnx").rename(elsewhere)
    (folder / "model.onnx").symlink_to(elsewhere)
    with pytest.raises(BundleError, match="not a regular file"):
        bundle.read(folder)


def test_a_folder_in_place_of_a_file_is_found(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()
    with pytest.raises(BundleError, match="not a regular file"):
        bundle.read(folder)


def test_another_format_is_refused(folder: Path) -> None:
    edit(folder, format=2)
    with pytest.raises(
        BundleError, match="bundle format 2, but this version of Tidemill reads format 1"
    ):
        bundle.read(folder)


def test_another_digest_is_refused(folder: Path) -> None:
    wanted = bundle.read(folder).digest
    edit(folder, model="other")
    with pytest.raises(BundleError, match=f"but {wanted} was expected"):
        bundle.read(folder, digest=wanted)


def test_a_manifest_without_a_required_file_is_refused(folder: Path) -> None:
    edit(folder, files={})
    with pytest.raises(BundleError, match=r"does not list .*model\.onnx"):
        bundle.read(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", ".."])
def test_a_manifest_that_points_outside_is_refused(folder: Path, name: str) -> None:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit(folder, files={**files, name: {"sha256": "0", "size": 0}})
    with pytest.raises(BundleError):
        bundle.read(folder)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        bundle.read(tmp_path)


@given(st.binary(max_size=200))
def test_a_manifest_of_arbitrary_bytes_raises_a_bundle_error(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "manifest.json").write_bytes(content)
        with pytest.raises(BundleError):
            bundle.read(Path(folder))


def edit(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

"""The keys of the data plane: only a readable key file takes one away."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill import keyring
from tidemill.errors import SettingsError
from tidemill.keyring import KeyringFile, Scope
from tidemill.serving.http.api_keys import ApiKeys

PREDICT: tuple[Scope, ...] = ("predict",)
HOSTILE = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"{}",
    b'{"pepper": ""}',
    b'{"pepper": "xyz"}',
    b'{"pepper": "00"}',
    b'{"pepper": "' + b"00" * 65 + b'"}',
    b'{"pepper": "00", "keys": [{"id": "a", "hash": "\xc3\xa9", "scopes": ["predict"]}]}',
    b'{"pepper": "00", "keys": [{"id": "a", "hash": "00", "scopes": ["predict"]}]}',
    b'{"pepper": "00", "keys": null}',
    b'\xff\xfe{"pepper": "00"}',
    b'{"other": ' + b"[" * 100_000,
]


@pytest.mark.parametrize("content", HOSTILE)
def test_a_damaged_file_changes_no_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys.json"
    ring, token, record = keyring.add(keyring.new_keyring(), PREDICT)
    keyring.save(path, ring)
    file = KeyringFile(path)
    assert file.reload()
    path.write_bytes(content)
    assert not file.reload()
    assert file.problem is not None
    assert file.ring.find(token) == record


@given(cut=st.integers(min_value=1, max_value=10_000))
def test_a_truncated_file_is_not_a_keyring(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    keyring.save(path, keyring.add(keyring.new_keyring(), PREDICT)[0])
    whole = path.read_bytes()
    path.write_bytes(whole[: -min(cut, len(whole))])
    with pytest.raises(SettingsError):
        keyring.load(path)


def test_a_folder_or_pipe_in_its_place_changes_no_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ring, token, _ = keyring.add(keyring.new_keyring(), PREDICT)
    keyring.save(path, ring)
    file = KeyringFile(path)
    file.reload()
    path.unlink()
    path.mkdir()
    assert not file.reload()
    path.rmdir()
    os.mkfifo(path)
    assert not file.reload()
    assert file.ring.find(token) is not None


def test_the_generation_changes_only_with_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ring, *_ = keyring.add(keyring.new_keyring(), PREDICT)
    keyring.save(path, ring)
    keys = ApiKeys(path)
    first = keys.generation
    path.unlink()
    assert not keys.refresh()
    path.write_text("{")
    assert not keys.refresh()
    assert keys.state == "stale"
    keyring.save(path, ring)
    assert not keys.refresh()
    assert keys.state == "ok"
    assert keys.generation is first
    keyring.save(path, msgspec.structs.replace(ring, keys=()))
    assert keys.refresh()
    assert keys.generation is not first

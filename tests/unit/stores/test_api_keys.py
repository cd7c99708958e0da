"""API keys: shown once, found by their hash, gone when revoked."""

from __future__ import annotations

import os
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from tidemill import keyring
from tidemill.cli.local.home import ensure_key
from tidemill.errors import NotFoundError, RequestError, UnavailableError
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.api_keys import KeyStore, WatchedKeyring
from tidemill.stores.audit import AuditEntry


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "keys.json"


@pytest.fixture
def recorded() -> list[AuditEntry]:
    return []


@pytest.fixture
def keys(path: Path, recorded: list[AuditEntry]) -> KeyStore:
    return KeyStore(path, recorded.append)


def test_a_key_is_shown_once_and_stored_nowhere(keys: KeyStore, path: Path) -> None:
    token, record = keys.create(("train", "predict"), actor="ops", name="ci")
    assert token.startswith(f"tm_{record.id}_")
    assert record.scopes == ("predict", "train")
    secret = token.split("_", 2)[2]
    assert secret not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert keyring.load(path).find(token) == record
    assert [each.id for each in keys.list()] == [record.id]


def test_every_change_is_recorded_before_it_takes_effect(
    keys: KeyStore, recorded: list[AuditEntry]
) -> None:
    _, record = keys.create(("admin",), actor="ops", lifetime=60)
    keys.revoke(record.id, actor="ops", reason="lost laptop")
    assert [entry.action for entry in recorded] == ["key.create", "key.revoke"]
    assert recorded[0].details["scopes"] == ["admin"]
    assert recorded[1].reason == "lost laptop"


def test_a_change_that_cannot_be_recorded_does_not_happen(path: Path) -> None:
    def refuse(_: AuditEntry) -> None:
        raise UnavailableError("The database is away.")

    with pytest.raises(UnavailableError):
        KeyStore(path, refuse).create(("train",), actor="ops")
    assert not path.exists()


def test_a_revoked_key_is_not_found(keys: KeyStore, path: Path) -> None:
    token, record = keys.create(("predict",), actor="ops")
    keys.revoke(record.id, actor="ops")
    assert keyring.load(path).find(token) is None
    with pytest.raises(NotFoundError, match=record.id):
        keys.revoke(record.id, actor="ops")


@pytest.mark.parametrize("scopes", [(), ("root",), ("train", "fly")])
def test_unknown_scopes_are_rejected_and_the_known_ones_listed(
    keys: KeyStore, scopes: tuple[str, ...]
) -> None:
    with pytest.raises(RequestError) as refusal:
        keys.create(scopes, actor="ops")
    assert "predict" in str(refusal.value.expected)


def test_a_key_that_would_already_have_expired_is_rejected(keys: KeyStore) -> None:
    with pytest.raises(RequestError, match="expired"):
        keys.create(("train",), actor="ops", lifetime=0)


def test_keys_created_concurrently_are_all_kept(path: Path) -> None:
    def make() -> None:
        KeyStore(path, lambda _: None).create(("train",), actor="ops")

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keyring.load(path).keys) == 8


def test_a_running_server_picks_up_changes(
    keys: KeyStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemill.stores.api_keys.CHECK_SECONDS", 0.0)
    watched = WatchedKeyring(path)
    assert watched.current().keys == ()
    token, record = keys.create(("predict",), actor="ops", lifetime=3600)
    found = watched.current().find(token)
    assert found == record
    assert found.allows("predict", time.time())
    assert not found.allows("train", time.time())
    assert not found.allows("predict", time.time() + 7200)
    keys.revoke(record.id, actor="ops")
    assert watched.current().find(token) is None
    token, _ = keys.create(("predict",), actor="ops")
    assert watched.current().find(token) is not None
    path.write_text("{broken")
    os.utime(path, (1, 1))
    assert watched.current().find(token) is not None
    path.unlink()
    assert watched.current().find(token) is not None


def test_a_key_created_a_moment_ago_is_accepted(
    keys: KeyStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new key is accepted before the file is next checked for changes."""
    monkeypatch.setattr("tidemill.stores.api_keys.CHECK_SECONDS", 3600.0)
    watched = WatchedKeyring(path)
    assert watched.find("tm_none_at_all") is None
    token, record = keys.create(("predict",), actor="ops")
    assert watched.current().keys == ()
    assert watched.find(token) == record


def test_the_first_key_of_a_home_is_recorded_and_created_once(home: Path) -> None:
    settings = Settings()
    path, made = ensure_key(settings)
    assert made
    assert path.stat().st_mode & 0o777 == 0o600
    record = keyring.load(settings.keys_file).find(path.read_text())
    assert record is not None
    assert ensure_key(settings) == (path, False)
    with closing(Platform.open(settings)) as platform:
        (row,) = platform.audit.page().items
    assert (row["action"], row["subject"], row["actor"]) == ("key.create", record.id, "cli")


def test_without_a_database_no_first_key_is_created(home: Path) -> None:
    settings = Settings(database_url="postgresql+psycopg://nobody@127.0.0.1:1/none")
    with pytest.raises(UnavailableError):
        ensure_key(settings)
    assert not settings.keys_file.exists()
    assert ensure_key(settings, recorded=False)[1]  # a data plane alone

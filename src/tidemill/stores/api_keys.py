"""API keys: created, listed and revoked in the file that servers read.

A running server picks up a change within a second or two, when it next checks the file's date.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tidemill import keyring
from tidemill.errors import NotFoundError, RequestError
from tidemill.keyring import SCOPES, KeyRecord, Keyring, KeyringFile, Scope
from tidemill.stores.audit import AuditEntry
from tidemill.stores.file_lock import file_lock

RecordChange = Callable[[AuditEntry], object]
CHECK_SECONDS = 1.0


class KeyStore:
    """The keys in one file.

    Args:
        record: Called with every change before it is saved; `AuditLog.append`.
    """

    def __init__(self, path: Path, record: RecordChange) -> None:
        self._path = path
        self._record = record

    def create(
        self,
        scopes: tuple[str, ...],
        *,
        actor: str,
        name: str = "",
        lifetime: float | None = None,
        origin: str | None = None,
    ) -> tuple[str, KeyRecord]:
        """Create a key.

        Args:
            lifetime: Seconds until it expires; None for never.

        Returns:
            The key itself, which is stored nowhere, and its record.

        Raises:
            RequestError: A scope is unknown, or the lifetime is not positive.
        """
        checked = _check_scopes(scopes)
        if lifetime is not None and lifetime <= 0:
            raise RequestError("The key would already have expired.", field="expires")
        expires = None if lifetime is None else time.time() + lifetime
        with self._changing() as (ring, save):
            changed, token, record = keyring.add(ring, checked, name=name, expires=expires)
            details = {"scopes": list(checked), "name": name, "expires": expires}
            self._record(
                AuditEntry(actor, "key.create", subject=record.id, origin=origin, details=details)
            )
            save(changed)
        return token, record

    def revoke(
        self, key_id: str, *, actor: str, origin: str | None = None, reason: str | None = None
    ) -> KeyRecord:
        """Revoke a key.

        Raises:
            NotFoundError: There is no key with that id.
        """
        with self._changing() as (ring, save):
            found = next((record for record in ring.keys if record.id == key_id), None)
            if found is None:
                raise NotFoundError(f"There is no key '{key_id}'.", field="id")
            self._record(
                AuditEntry(actor, "key.revoke", subject=key_id, origin=origin, reason=reason)
            )
            save(keyring.remove(ring, key_id))
        return found

    def list(self) -> tuple[KeyRecord, ...]:
        """Return the records of all keys, without the keys themselves."""
        return keyring.load(self._path).keys if self._path.exists() else ()

    @contextmanager
    def _changing(self) -> Iterator[tuple[Keyring, Callable[[Keyring], None]]]:
        with file_lock(self._path.with_name(f"{self._path.name}.lock")):
            ring = keyring.load(self._path) if self._path.exists() else keyring.new_keyring()
            yield ring, lambda changed: keyring.save(self._path, changed)


class WatchedKeyring:
    """The keyring in a file, reloaded when the file changes; see `KeyringFile`."""

    def __init__(self, path: Path) -> None:
        self._file = KeyringFile(path)
        self._lock = threading.Lock()
        self._checked = float("-inf")

    def current(self) -> Keyring:
        """Return the keyring as of at most a second ago."""
        if time.monotonic() - self._checked >= CHECK_SECONDS:
            self._reload()
        return self._file.ring

    def find(self, token: str) -> KeyRecord | None:
        """Return the record of a key; an unknown one may just have been created."""
        found = self.current().find(token)
        if found is None:
            self._reload()
            found = self._file.ring.find(token)
        return found

    def _reload(self) -> None:
        with self._lock:
            self._checked = time.monotonic()
            self._file.reload()


def _check_scopes(scopes: tuple[str, ...]) -> tuple[Scope, ...]:
    known = tuple(scope for scope in SCOPES if scope in scopes)
    if not scopes or len(known) != len(set(scopes)):
        raise RequestError(
            f"'{','.join(scopes)}' is not a list of known scopes.",
            field="scope",
            expected=f"some of {', '.join(SCOPES)}",
        )
    return known

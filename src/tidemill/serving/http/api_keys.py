"""API keys from the keyring file, which may change while the server runs."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from tidemill import keyring
from tidemill.errors import AccessError, SettingsError
from tidemill.keyring import KeyRecord, Keyring, Scope
from tidemill.serving.http.routes import RequestHead

log = logging.getLogger(__name__)
MAX_CACHED = 4096


class ApiKeys:
    """The current keyring; `refresh` reloads a changed file.

    Args:
        path: The keyring file, which need not exist yet. None turns keys off.

    `generation` is a new object after each change: an admission made under another generation is
    out of date.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.generation = object()
        self._ring = Keyring(pepper="00")
        self._stamp: tuple[int, int, int] | None = None
        self._known: dict[bytes, KeyRecord] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Reload the file if it changed; True if it did. If it is unreadable, no key is valid."""
        if self.path is None:
            return False
        stamp = _stamp(self.path)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self._ring = self._load() if stamp else Keyring(pepper="00")
        self._known = {}
        self.generation = object()
        return True

    def admit(self, head: RequestHead, scope: Scope) -> KeyRecord | None:
        """The key of the request; None if keys are off.

        Raises:
            AccessError: The key is missing, unknown, expired, or lacks the scope.
        """
        if self.path is None:
            return None
        token = _token(head)
        if token is None:
            raise AccessError("The request has no API key.", remedy=self._remedy())
        record = self._find(token)
        if record is None:
            raise AccessError("The API key is not known here.", remedy=self._remedy())
        if not record.allows(scope, time.time()):
            raise _lacking(record, scope)
        return record

    def _find(self, token: bytes) -> KeyRecord | None:
        record = self._known.get(token)
        if record is None:
            record = self._ring.find(token.decode("utf-8", "replace"))
            if record is not None and len(self._known) < MAX_CACHED:
                self._known[token] = record
        return record

    def _load(self) -> Keyring:
        assert self.path is not None
        try:
            ring = keyring.load(self.path)
            bytes.fromhex(ring.pepper)
        except (SettingsError, ValueError) as error:
            log.error("no API key is accepted until this is fixed: %s", error)
            return Keyring(pepper="00")
        return ring

    def _remedy(self) -> str:
        if not self._ring.keys:
            return (
                "This server has no keys yet: create one with `tidemill keys create` and send it in"
                " the X-API-Key header."
            )
        return "Send a key of this server in the X-API-Key header, or as Authorization: Bearer."


def _lacking(record: KeyRecord, scope: Scope) -> AccessError:
    if record.expires is not None and time.time() >= record.expires:
        return AccessError(f"The API key {record.id} has expired.", remedy="Ask for a new one.")
    return AccessError(
        f"The API key {record.id} lacks the scope '{scope}'.",
        expected=scope,
        remedy="Ask for a key with that scope.",
    )


def _token(head: RequestHead) -> bytes | None:
    bearer = None
    for name, value in head.headers:
        if name == b"x-api-key":
            return value.strip()
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            bearer = value[7:].strip()
    return bearer


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino

"""API keys from the keyring file, which may change while the server runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from tidemill.errors import AccessError
from tidemill.keyring import KeyRecord, KeyringFile, Scope
from tidemill.serving.http.routes import RequestHead

MAX_CACHED = 4096


class ApiKeys:
    """The current keyring; `refresh` reloads a changed file.

    Args:
        path: The keyring file, which need not exist yet. None turns keys off.

    `generation` is a new object after each change of the keys: an admission made under
    another generation is out of date.
    """

    def __init__(self, path: Path | None) -> None:
        self.generation = object()
        self._file = KeyringFile(path) if path is not None else None
        self._known: dict[bytes, KeyRecord] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Reload the file if it was replaced; True if the keys changed."""
        if self._file is None or not self._file.reload():
            return False
        self._known = {}
        self.generation = object()
        return True

    @property
    def state(self) -> Literal["off", "ok", "stale"]:
        """`stale`: the file cannot be read, and the keys read last are valid."""
        if self._file is None:
            return "off"
        return "ok" if self._file.problem is None else "stale"

    def admit(self, head: RequestHead, scope: Scope) -> KeyRecord | None:
        """The key of the request; None if keys are off.

        Raises:
            AccessError: The key is missing, unknown, expired, or lacks the scope.
        """
        if self._file is None:
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
        assert self._file is not None
        record = self._known.get(token)
        if record is None:
            record = self._file.ring.find(token.decode("utf-8", "replace"))
            if record is not None and len(self._known) < MAX_CACHED:
                self._known[token] = record
        return record

    def _remedy(self) -> str:
        if self._file is None or not self._file.ring.keys:
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

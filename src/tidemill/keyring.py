"""API keys as the data plane sees them: a file of keyed hashes that the control plane writes.

A key looks like `tm_<id>_<secret>`. The file holds for each key its id, its scopes, its expiry and
the BLAKE2b of the whole key under a pepper that is kept in the same file (mode 0600). A stolen list
of hashes therefore says nothing without the pepper, and the keys themselves are stored nowhere.

A *ticket* `tt_<id>_<expiry>_<mac>` stands for a key for some minutes: the console asks the data
plane with one, on behalf of whoever signed in. Every server that reads the file can check it, and
it dies with its key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path
from typing import Literal

import msgspec

from tidemill.errors import SettingsError

Scope = Literal["predict", "train", "promote", "admin"]
SCOPES: tuple[Scope, ...] = ("predict", "train", "promote", "admin")
PREFIX = "tm_"
TICKET = "tt_"


class KeyRecord(msgspec.Struct, frozen=True):
    """One key, without the key. `expires` is in seconds since the epoch, None for never."""

    id: str
    hash: str
    scopes: tuple[Scope, ...]
    expires: float | None = None
    name: str = ""
    created: float = 0.0

    def allows(self, scope: Scope, now: float) -> bool:
        """Whether the key is still valid and carries the scope; admin carries every scope."""
        alive = self.expires is None or now < self.expires
        return alive and (scope in self.scopes or "admin" in self.scopes)


class Keyring(msgspec.Struct, frozen=True):
    """All keys that are valid, as one immutable value; a changed file is a new keyring."""

    pepper: str
    keys: tuple[KeyRecord, ...] = ()

    def find(self, token: str) -> KeyRecord | None:
        """The record of the key or ticket, or None; every comparison takes the same time."""
        if token.startswith(TICKET):
            return self._find_by_ticket(token)
        wanted = hash_key(self.pepper, token)
        found = None
        for record in self.keys:
            if hmac.compare_digest(record.hash, wanted):
                found = record
        return found

    def get(self, key_id: str) -> KeyRecord | None:
        """The record of that id, or None."""
        return next((record for record in self.keys if record.id == key_id), None)

    def sign(self, record: KeyRecord, purpose: str, text: str) -> str:
        """A signature that only a reader of this file can make, and that dies with the key."""
        said = "\0".join((purpose, text, record.hash)).encode()
        return hashlib.blake2b(said, key=bytes.fromhex(self.pepper), digest_size=32).hexdigest()

    def ticket(self, record: KeyRecord, expires: float) -> str:
        """A stand-in for the key until a moment, in whole seconds since the epoch."""
        until = f"{int(expires):x}"
        return f"{TICKET}{record.id}_{until}_{self.sign(record, TICKET, until)}"

    def _find_by_ticket(self, ticket: str) -> KeyRecord | None:
        parts = ticket.removeprefix(TICKET).split("_")
        record = self.get(parts[0])
        if record is None or len(parts) != 3:
            return None
        _, until, signature = parts
        if not hmac.compare_digest(
            self.sign(record, TICKET, until).encode(), signature.encode("utf-8", "replace")
        ):
            return None
        ends = [float(int(until, 16)), *([record.expires] if record.expires is not None else [])]
        return msgspec.structs.replace(record, expires=min(ends))


def new_keyring() -> Keyring:
    return Keyring(pepper=secrets.token_hex(32))


def new_key() -> tuple[str, str]:
    """A fresh key and its public id."""
    key_id = secrets.token_hex(4)
    return f"{PREFIX}{key_id}_{secrets.token_urlsafe(32)}", key_id


def hash_key(pepper: str, token: str) -> str:
    """BLAKE2b-256 of the key under the pepper, in hexadecimal."""
    return hashlib.blake2b(token.encode(), key=bytes.fromhex(pepper), digest_size=32).hexdigest()


def add(
    ring: Keyring, scopes: tuple[Scope, ...], **fields: str | float | None
) -> tuple[Keyring, str, KeyRecord]:
    """The keyring with one key more, the key itself (shown once) and its record."""
    token, key_id = new_key()
    record = msgspec.convert(
        {
            "id": key_id,
            "hash": hash_key(ring.pepper, token),
            "scopes": scopes,
            "created": time.time(),
            **fields,
        },
        KeyRecord,
    )
    return msgspec.structs.replace(ring, keys=(*ring.keys, record)), token, record


def remove(ring: Keyring, key_id: str) -> Keyring:
    """The keyring without that key; the same keyring if it is not there."""
    return msgspec.structs.replace(ring, keys=tuple(k for k in ring.keys if k.id != key_id))


def load(path: Path) -> Keyring:
    """The keyring in a file.

    Raises:
        SettingsError: The file is not a keyring.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Keyring)
    except (OSError, msgspec.DecodeError) as error:
        raise SettingsError(
            f"The key file {path} cannot be read: {error}",
            remedy="Make a key with `tidemill keys create`.",
        ) from error


def save(path: Path, ring: Keyring) -> None:
    """Write the keyring so that a reader sees the old file or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(ring), indent=2))
    draft.replace(path)

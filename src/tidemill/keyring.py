"""API keys: a file of keyed hashes, written by the control plane and read by both planes.

A key looks like `tm_<id>_<secret>`. For each key, the file stores the id, scopes, expiry and the
BLAKE2b hash of the whole key, keyed with a pepper from the same file (mode 0600). So the hashes are
useless without the pepper, and the keys themselves are not stored anywhere.

A *ticket* `tt_<id>_<expiry>_<mac>` replaces a key for a few minutes: the console sends one to the
data plane on behalf of the user who signed in. Every server that reads the file can verify it, and
it becomes invalid with its key.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Literal

import msgspec

from tidemill.errors import SettingsError
from tidemill.state_files import decode_state

log = logging.getLogger(__name__)

Scope = Literal["predict", "train", "promote", "admin"]
SCOPES: tuple[Scope, ...] = ("predict", "train", "promote", "admin")
PREFIX = "tm_"
TICKET = "tt_"


class KeyRecord(msgspec.Struct, frozen=True):
    """What is stored of a key.

    Attributes:
        expires: In seconds since the epoch; None for never.
        created: In seconds since the epoch.
    """

    id: str
    hash: str
    scopes: tuple[Scope, ...]
    expires: float | None = None
    name: str = ""
    created: float = 0.0

    def allows(self, scope: Scope, now: float) -> bool:
        """Whether the key is valid now and has the scope; `admin` includes every scope."""
        valid = self.expires is None or now < self.expires
        return valid and (scope in self.scopes or "admin" in self.scopes)


class Keyring(msgspec.Struct, frozen=True):
    """All keys, as an immutable value; a changed file is a new keyring."""

    pepper: str
    keys: tuple[KeyRecord, ...] = ()

    def find(self, token: str) -> KeyRecord | None:
        """The record of a key or ticket, or None; compares in constant time."""
        if token.startswith(TICKET):
            return self._find_by_ticket(token)
        hashed = hash_key(self.pepper, token)
        found = None
        for record in self.keys:
            if hmac.compare_digest(record.hash, hashed):
                found = record
        return found

    def get(self, key_id: str) -> KeyRecord | None:
        """The record with this id, or None."""
        return next((record for record in self.keys if record.id == key_id), None)

    def sign(self, record: KeyRecord, purpose: str, text: str) -> str:
        """A signature that only readers of this file can create; it ends with the key."""
        message = "\0".join((purpose, text, record.hash)).encode()
        return hashlib.blake2b(message, key=bytes.fromhex(self.pepper), digest_size=32).hexdigest()

    def ticket(self, record: KeyRecord, expires: float) -> str:
        """A ticket for the key, valid until `expires` in seconds since the epoch (rounded down)."""
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
    """An empty keyring with a new pepper."""
    return Keyring(pepper=secrets.token_hex(32))


def new_key() -> tuple[str, str]:
    """A new key and its public id."""
    key_id = secrets.token_hex(4)
    return f"{PREFIX}{key_id}_{secrets.token_urlsafe(32)}", key_id


def hash_key(pepper: str, token: str) -> str:
    """BLAKE2b-256 of the key under the pepper, in hexadecimal."""
    return hashlib.blake2b(token.encode(), key=bytes.fromhex(pepper), digest_size=32).hexdigest()


def add(
    ring: Keyring, scopes: tuple[Scope, ...], **fields: str | float | None
) -> tuple[Keyring, str, KeyRecord]:
    """Add a key: returns the new keyring, the key itself (to be shown once) and its record."""
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
    """The keyring without a key; unchanged if there is no such key."""
    return msgspec.structs.replace(ring, keys=tuple(k for k in ring.keys if k.id != key_id))


def load(path: Path) -> Keyring:
    """Read the keyring from a file.

    Raises:
        SettingsError: The file cannot be read, or is not a keyring.
    """
    try:
        ring = decode_state(path.read_bytes(), Keyring, ("pepper", "keys"))
        _check(ring)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"The key file {path} cannot be read: {error}",
            remedy="Restore it from a backup, or delete it and create keys again.",
        ) from error
    return ring


def _check(ring: Keyring) -> None:
    """Raise ValueError if the pepper or a hash cannot be used."""
    if not 1 <= len(bytes.fromhex(ring.pepper)) <= hashlib.blake2b.MAX_KEY_SIZE:
        raise ValueError("the pepper must have 1 to 64 bytes, in hexadecimal")
    for record in ring.keys:
        if len(bytes.fromhex(record.hash)) != 32:
            raise ValueError(f"the hash of key {record.id} must have 32 bytes, in hexadecimal")


class KeyringFile:
    """The keyring in a file, as it was last read.

    Only a readable file revokes a key: while the file is missing or damaged, the keys read last
    stay valid until they expire. Before the first readable file there are none. See decision 203.

    Attributes:
        problem: Why the file cannot be read now; None if it can, or has never been there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ring = Keyring(pepper="00")
        self.problem: str | None = None
        self._stamp: tuple[int, int, int] | None = None

    def reload(self) -> bool:
        """Read the file if it was replaced or could not be read before; True if keys changed."""
        stamp = _stamp(self.path)
        if stamp == self._stamp and self.problem is None:
            return False
        try:
            if stamp is None:
                raise SettingsError(f"The key file {self.path} is missing.")
            ring = load(self.path)
        except SettingsError as error:
            self._keep(str(error))
            return False
        if self.problem is not None:
            log.info("the key file %s can be read again", self.path)
        changed, self.ring, self.problem, self._stamp = ring != self.ring, ring, None, stamp
        return changed

    def _keep(self, problem: str) -> None:
        if problem != self.problem:
            log.error("the %d keys read last stay valid: %s", len(self.ring.keys), problem)
        self.problem = problem


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Changes when the file is replaced; None without a regular file (opening a pipe may block)."""
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def save(path: Path, ring: Keyring) -> None:
    """Write the keyring atomically, readable by this user alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(ring), indent=2))
    draft.replace(path)

"""The audit log: who did what to which model, when, why and on what evidence, in a hash chain.

Each row's hash is the SHA-256 of the previous row's hash followed by the row's content in canonical
JSON, so a changed or missing row breaks the chain from there on. A signed checkpoint file in the
home, with the number and hash of the newest row, detects what a chain alone cannot: that its end
was cut off, or that all of it was rewritten. See decision 052.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, insert, select, text

from tidemill.errors import SettingsError
from tidemill.settings import Settings
from tidemill.stores.database.database import Database, EpochNow
from tidemill.stores.database.queries import ResultPage, conditions, json_safe, read_page
from tidemill.stores.database.tables import audit
from tidemill.stores.file_lock import file_lock

FIRST_HASH = "0" * 64
CHUNK_ROWS = 2_000
# An arbitrary number that nothing else in the database uses.
APPEND_LOCK = 7_305_452
HASHED_COLUMNS = (
    "seq",
    "time",
    "actor",
    "action",
    "subject",
    "version",
    "origin",
    "reason",
    "details",
)


@dataclass(frozen=True)
class AuditEntry:
    """An action to be recorded. `actor` is a key's id, or `user@host` on the command line."""

    actor: str
    action: str
    subject: str | None = None
    version: str | None = None
    origin: str | None = None
    reason: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AuditReport:
    """Whether the log is intact.

    Attributes:
        rows: How many rows were verified.
        row: The number of the first changed or missing row.
        note: What could not be checked.
    """

    intact: bool
    rows: int
    row: int | None = None
    problem: str | None = None
    note: str | None = None


class AuditLog:
    """The log in a database, with its checkpoint in a folder.

    Args:
        folder: The folder of the checkpoint `audit.head`; each machine may have its own.
        secret: Signs the checkpoint; None creates a random one in `audit.secret`, mode 0600.
    """

    def __init__(self, database: Database, folder: Path, secret: str | None = None) -> None:
        self._database = database
        self._folder = folder
        self._secret = secret

    @classmethod
    def from_settings(cls, database: Database, settings: Settings) -> AuditLog:
        """Return the log with its checkpoint in the home."""
        secret = settings.audit_secret
        return cls(database, settings.home, secret.get_secret_value() if secret else None)

    def append(self, entry: AuditEntry) -> int:
        """Write one row; writers of all processes wait for each other.

        Returns:
            The row's number.

        Raises:
            UnavailableError: The database cannot be reached; nothing was recorded.
        """
        with self._database.write() as connection:
            self._lock(connection)
            row = _chained(connection, entry)
            connection.execute(insert(audit).values(row))
        self._move_checkpoint(row["seq"], row["hash"])
        return int(row["seq"])

    def page(
        self,
        *,
        action: str | None = None,
        subject: str | None = None,
        actor: str | None = None,
        since: float | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> ResultPage[dict[str, Any]]:
        """Return a page of rows, newest first."""
        equal = {audit.c.action: action, audit.c.subject: subject, audit.c.actor: actor}
        where = conditions(equal, time=audit.c.time, since=since)
        return read_page(
            self._database, audit, audit.c.seq, where=where, limit=limit, cursor=cursor
        )

    def verify(self) -> AuditReport:
        """Recompute the chain from its first row and compare its end with the checkpoint."""
        previous, count = FIRST_HASH, 0
        for row in self._rows():
            count += 1
            if row["seq"] != count:
                return AuditReport(False, count - 1, count, f"row {count} is missing")
            if row["previous"] != previous or row["hash"] != _hash(previous, row):
                return AuditReport(False, count - 1, count, f"row {count} was changed")
            previous = row["hash"]
        return self._check_end(count)

    def _check_end(self, count: int) -> AuditReport:
        head = self._read_checkpoint()
        if head is None:
            note = "there is no checkpoint here: rows missing at the end would not be detected"
            return AuditReport(True, count, note=note)
        seq, digest = int(head["seq"]), str(head["hash"])
        if not hmac.compare_digest(str(head["mac"]), self._sign(seq, digest)):
            return AuditReport(False, count, problem="the checkpoint's signature is wrong")
        if seq > count:
            return AuditReport(False, count, count + 1, f"row {count + 1} is missing")
        query = select(audit.c.hash).where(audit.c.seq == seq)
        if self._database.rows(query)[0]["hash"] != digest:
            problem = f"the chain was rewritten: row {seq} is not the row in the checkpoint"
            return AuditReport(False, count, seq, problem)
        return AuditReport(True, count)

    def _rows(self) -> Iterator[dict[str, Any]]:
        last = 0
        while True:
            query = select(audit).where(audit.c.seq > last).order_by(audit.c.seq).limit(CHUNK_ROWS)
            rows = self._database.rows(query)
            yield from rows
            if len(rows) < CHUNK_ROWS:
                return
            last = rows[-1]["seq"]

    def _lock(self, connection: Connection) -> None:
        # On SQLite the writing transaction already holds the only write lock.
        if self._database.dialect == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({APPEND_LOCK})"))

    def _move_checkpoint(self, seq: int, digest: str) -> None:
        with file_lock(self._folder / "audit.lock"):
            head = self._read_checkpoint()
            if head is not None and int(head["seq"]) >= seq:
                return
            body = {"seq": seq, "hash": digest, "mac": self._sign(seq, digest)}
            draft = self._folder / f".audit.head.{secrets.token_hex(4)}"
            draft.write_text(json.dumps(body))
            draft.replace(self._folder / "audit.head")

    def _read_checkpoint(self) -> dict[str, Any] | None:
        path = self._folder / "audit.head"
        try:
            head: dict[str, Any] = json.loads(path.read_text())
            if {"seq", "hash", "mac"} <= head.keys():
                return head
        except FileNotFoundError:
            return None
        except ValueError:
            pass
        raise SettingsError(
            f"The audit checkpoint {path} cannot be read.",
            remedy="It was changed. Restore it from a backup and check the end of the log.",
        )

    def _sign(self, seq: int, digest: str) -> str:
        secret = self._secret or self._own_secret()
        return hmac.new(secret.encode(), f"{seq}:{digest}".encode(), hashlib.sha256).hexdigest()

    def _own_secret(self) -> str:
        path = self._folder / "audit.secret"
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
        except FileExistsError:
            pass
        return path.read_text()


def _chained(connection: Connection, entry: AuditEntry) -> dict[str, Any]:
    newest = connection.execute(
        select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)
    ).one_or_none()
    seq, previous = newest if newest is not None else (0, FIRST_HASH)
    row = {
        "seq": seq + 1,
        "time": float(connection.execute(select(func.round(EpochNow() * 1000))).scalar_one())
        / 1000,
        **json_safe(vars(entry)),
        "previous": previous,
    }
    return {**row, "hash": _hash(previous, row)}


def _hash(previous: str, row: Mapping[str, Any]) -> str:
    content = {name: row[name] for name in HASHED_COLUMNS}
    canonical = json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(previous.encode() + canonical.encode()).hexdigest()

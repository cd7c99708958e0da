"""The audit log: who did what to which model, when, why and on what evidence, in a hash chain.

Each row's hash is the SHA-256 of the previous row's hash followed by the row's content in canonical
JSON, so a changed or missing row breaks the chain from there on. Signed heads in the home, each
with the number and hash of the newest row, detect what a chain alone cannot: that its end was cut
off, or that all of it was rewritten. Each row is appended only after the last head was found in the
chain; a break is recorded, and reported ever after. See decisions 052 and 196.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, insert, select, text

from tidemill.settings import Settings
from tidemill.stores.audit_heads import AuditHeads, HeadHistory, SignedHead
from tidemill.stores.database.database import Database, EpochNow
from tidemill.stores.database.queries import ResultPage, conditions, json_safe, read_page
from tidemill.stores.database.tables import audit

log = logging.getLogger(__name__)

FIRST_HASH = "0" * 64
#: The action of the row that records a break of the chain.
BROKEN = "audit.broken"
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
    """The log in a database, with its signed heads in a folder.

    Args:
        folder, secret, anchor: As of `AuditHeads`.
    """

    def __init__(
        self,
        database: Database,
        folder: Path,
        secret: str | None = None,
        anchor: Path | None = None,
    ) -> None:
        self._database = database
        self._heads = AuditHeads(folder, secret, anchor)

    @classmethod
    def from_settings(cls, database: Database, settings: Settings) -> AuditLog:
        """Return the log with its signed heads in the home."""
        secret = settings.audit_secret
        key = secret.get_secret_value() if secret else None
        return cls(database, settings.home, key, settings.audit_anchor)

    def append(self, entry: AuditEntry, *, restored: bool = False) -> int:
        """Write one row; writers of all processes wait for each other.

        If the last signed head is not in the chain, that is recorded too, for ever: as a row before
        this one, and in the new head.

        Args:
            restored: A backup was restored just before, so that earlier heads may be of rows that
                no longer exist.

        Returns:
            The row's number.

        Raises:
            UnavailableError: The database cannot be reached; nothing was recorded.
        """
        with self._database.write() as connection:
            self._lock(connection)
            head = self._heads.last()
            broken = None if head is None else _head_problem(connection, head)
            if head is not None and broken is not None:
                log.error("the audit log was changed: %s", broken)
                details = {"problem": broken, "signed": {"seq": head.seq, "hash": head.hash}}
                _insert(connection, AuditEntry("tidemill", BROKEN, details=details))
            row = _insert(connection, entry)
        self._heads.append(row["seq"], row["hash"], head, broken=broken, restored=restored)
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
        """Recompute the chain from its first row in one snapshot, and compare the signed heads."""
        # Read before the snapshot: a head that is signed meanwhile may be of a later row.
        heads = self._heads.history()
        with closing(self._rows()) as rows:
            return _verify(rows, heads)

    def _rows(self) -> Generator[dict[str, Any], None, None]:
        query, last = select(audit).order_by(audit.c.seq).limit(CHUNK_ROWS), 0
        with self._database.snapshot() as connection:
            while rows := connection.execute(query.where(audit.c.seq > last)).mappings().all():
                yield from map(dict, rows)
                last = rows[-1]["seq"]

    def _lock(self, connection: Connection) -> None:
        # On SQLite the writing transaction already holds the only write lock.
        if self._database.dialect == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({APPEND_LOCK})"))


def _verify(rows: Iterable[dict[str, Any]], heads: HeadHistory) -> AuditReport:
    previous, count, broken, rewritten = FIRST_HASH, 0, None, None
    for row in rows:
        count += 1
        if row["seq"] != count:
            return AuditReport(False, count - 1, count, f"row {count} is missing")
        if row["previous"] != previous or row["hash"] != _hash(previous, row):
            return AuditReport(False, count - 1, count, f"row {count} was changed")
        previous = row["hash"]
        if rewritten is None and heads.expected.get(count, previous) != previous:
            rewritten = count
        if broken is None and row["action"] == BROKEN:
            broken = row
    if rewritten is not None:
        return AuditReport(False, count, rewritten, _rewritten(rewritten))
    if heads.expected and max(heads.expected) > count:
        return AuditReport(False, count, count + 1, f"row {count + 1} is missing")
    return _judge(count, heads, broken)


def _judge(count: int, heads: HeadHistory, broken: Mapping[str, Any] | None) -> AuditReport:
    """The report on a chain that is intact in itself."""
    if heads.problem is not None:
        return AuditReport(False, count, problem=heads.problem, note=heads.note)
    if broken is not None or heads.breaks:
        seq = broken["seq"] if broken is not None else heads.breaks[0].seq
        what = broken["details"]["problem"] if broken is not None else heads.breaks[0].broken
        problem = f"the chain was broken before row {seq}: {what}"
        return AuditReport(False, count, seq, problem, heads.note)
    note = heads.note
    if not heads.exists:
        note = "there is no signed head here: rows missing at the end would not be detected"
    return AuditReport(True, count, note=note)


def _rewritten(seq: int) -> str:
    return f"the chain was rewritten: row {seq} is not the row that was signed"


def _head_problem(connection: Connection, head: SignedHead) -> str | None:
    """What is wrong with the chain from a signed head onwards; None if it is intact."""
    if not head.valid:
        return "the last signed head was changed, or signed with another secret"
    query = select(audit).where(audit.c.seq >= head.seq).order_by(audit.c.seq)
    previous, number = None, head.seq
    for row in map(dict, connection.execute(query).mappings()):
        if row["seq"] != number:
            break
        if number == head.seq and row["hash"] != head.hash:
            return _rewritten(number)
        if row["hash"] != _hash(row["previous"], row) or row["previous"] != (
            previous or row["previous"]
        ):
            return f"row {number} was changed"
        previous, number = row["hash"], number + 1
    else:
        return None if previous is not None else f"row {number} is missing"
    return f"row {number} is missing"


def _insert(connection: Connection, entry: AuditEntry) -> dict[str, Any]:
    row = _chained(connection, entry)
    connection.execute(insert(audit).values(row))
    return row


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

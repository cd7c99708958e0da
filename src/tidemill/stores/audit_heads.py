"""The signed heads of the audit log: an append-only file in the home, and a copy elsewhere.

Each line is JSON: the number and hash of the newest row at that time, what was found to be wrong
with the chain before it (`broken`), the signature of the line before, and its own signature, an
HMAC under a secret that the database does not hold. See decisions 052 and 196.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tidemill.stores.file_lock import file_lock

log = logging.getLogger(__name__)

FILE = "audit.head"
TAIL_BYTES = 64 * 1024


@dataclass(frozen=True)
class SignedHead:
    """One line of the file.

    Attributes:
        broken: What was wrong with the chain when this head was signed; None if it was intact.
        restored: A backup was restored just before: earlier heads are of another history.
        valid: Whether its signature is right, and it follows the line before.
    """

    seq: int
    hash: str
    mac: str
    broken: str | None = None
    restored: bool = False
    valid: bool = True

    @property
    def starts_anew(self) -> bool:
        """Whether earlier heads need not be in the chain any more."""
        return self.broken is not None or self.restored


@dataclass(frozen=True)
class HeadHistory:
    """What the files say.

    Attributes:
        exists: Whether there is any head.
        expected: The hashes by number that must be in the chain.
        breaks: The heads that were signed over a broken chain.
        problem: What is wrong with the files themselves.
        note: What could not be checked.
    """

    exists: bool = False
    expected: dict[int, str] = field(default_factory=dict)
    breaks: tuple[SignedHead, ...] = ()
    problem: str | None = None
    note: str | None = None


class AuditHeads:
    """The heads that one machine has signed.

    Args:
        folder: The folder of the file; each machine may have its own.
        secret: The key of the signatures; None creates a random one in `audit.secret`, mode 0600.
        anchor: Another file to which every line is appended as well, such as on another volume.
    """

    def __init__(self, folder: Path, secret: str | None = None, anchor: Path | None = None) -> None:
        self._folder = folder
        self._path = folder / FILE
        self._secret = secret
        self._anchor = anchor

    def last(self) -> SignedHead | None:
        """Return the last head; None if there is none. Its line may be invalid.

        A file that cannot be read is logged: the log must go on, and `history` reports it.
        """
        try:
            lines = _lines(self._path, TAIL_BYTES)
        except OSError as error:
            log.error("the heads of the audit log cannot be read: %s", error)
            return None
        return self._parse(lines[-1], None, first=len(lines) == 1) if lines else None

    def append(
        self,
        seq: int,
        digest: str,
        checked: SignedHead | None,
        *,
        broken: str | None = None,
        restored: bool = False,
    ) -> None:
        """Sign a head, unless another process has signed a newer one meanwhile.

        Args:
            checked: The last head when the chain was checked.
            broken: What was wrong with the chain.

        An error such as a full disk is logged: the row is recorded already, and the next head
        covers it.
        """
        try:
            with file_lock(self._folder / "audit.lock"):
                last = self.last()
                if last is not None and last.valid and last.seq >= seq:
                    recorded = last.broken is not None and last != checked
                    if broken is None or recorded:
                        return
                body: dict[str, Any] = {"seq": seq, "hash": digest}
                body |= {"previous": last.mac if last else "", "broken": broken}
                body |= {"restored": True} if restored else {}
                line = json.dumps({**body, "mac": self._sign(_canonical(body))})
                _append(self._path, [line])
                self._copy(line)
        except OSError as error:
            log.error("the head of the audit log could not be signed: %s", error)

    def history(self) -> HeadHistory:
        """Read and verify both files."""
        try:
            own = self._verified(_lines(self._path))
        except OSError as error:
            return HeadHistory(problem=f"{self._path} cannot be read: {error.strerror}")
        wrong = next((number for number, head in enumerate(own, 1) if not head.valid), None)
        problem = f"line {wrong} of {self._path}: the signature is wrong" if wrong else None
        if not own and self._secret is None and (self._folder / "audit.secret").exists():
            problem = f"{self._path} is missing"
        anchored, note = self._anchored()
        macs = {head.mac for head in own}
        if problem is None and any(not head.valid for head in anchored):
            problem = f"{self._anchor}: a signature is wrong"
        if problem is None and any(head.mac not in macs for head in _current(anchored, True)):
            problem = f"{self._path} lacks signed heads that are in {self._anchor}"
        heads = {head.mac: head for head in (*own, *anchored)}.values()
        expected = {
            head.seq: head.hash for h in (own, anchored) for head in _current(h) if head.valid
        }
        breaks = tuple(head for head in heads if head.broken is not None)
        return HeadHistory(bool(heads), expected, breaks, problem, note)

    def _anchored(self) -> tuple[list[SignedHead], str | None]:
        if self._anchor is None:
            return [], None
        try:
            return self._verified(_lines(self._anchor), anchor=True), None
        except OSError as error:
            return [], f"{self._anchor} cannot be read: {error.strerror}"

    def _copy(self, line: str) -> None:
        """Append to the anchor what it lacks; after a restore that is the newest line only."""
        if self._anchor is None:
            return
        try:
            own, copied = _lines(self._path), _lines(self._anchor)
            self._anchor.parent.mkdir(parents=True, exist_ok=True)
            follows = own[: len(copied)] == copied
            _append(
                self._anchor, [each.decode() for each in own[len(copied) :]] if follows else [line]
            )
        except OSError as error:
            log.error("the head of the audit log could not be copied to its anchor: %s", error)

    def _verified(self, lines: Sequence[bytes], *, anchor: bool = False) -> list[SignedHead]:
        heads: list[SignedHead] = []
        for line in lines:
            # The anchor goes on with lines that do not follow each other after a restore.
            before = None if anchor else (heads[-1].mac if heads else "")
            heads.append(self._parse(line, before, first=not heads))
        return heads

    def _parse(self, line: bytes, before: str | None, *, first: bool) -> SignedHead:
        """Parse a line; one that cannot be parsed is an invalid head.

        Args:
            before: The signature of the line before; None if it is not known.
            first: Whether it may be in the format without links between lines.
        """
        try:
            body = json.loads(line)
            mac = str(body.pop("mac"))
            seq, digest = int(body["seq"]), str(body["hash"])
            linked = "previous" in body
            valid = hmac.compare_digest(
                mac, self._sign(_canonical(body) if linked else f"{seq}:{digest}")
            )
            valid &= linked or first
            valid &= before is None or not linked or body["previous"] == before
            return SignedHead(
                seq, digest, mac, body.get("broken"), bool(body.get("restored")), bool(valid)
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return SignedHead(0, "", hashlib.sha256(line).hexdigest(), valid=False)

    def _sign(self, text: str) -> str:
        secret = self._secret or self._own_secret()
        return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()

    def _own_secret(self) -> str:
        path = self._folder / "audit.secret"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            with os.fdopen(
                os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w"
            ) as file:
                file.write(secrets.token_hex(32))
            try:
                os.link(draft, path)  # appears complete, and only if there is none
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        return path.read_text()


def _canonical(body: dict[str, Any]) -> str:
    return json.dumps(body, sort_keys=True, separators=(",", ":"))


def _current(heads: Sequence[SignedHead], restored_only: bool = False) -> Sequence[SignedHead]:
    """The heads since the last one that starts anew."""
    for position in range(len(heads) - 1, -1, -1):
        head = heads[position]
        if head.restored if restored_only else head.starts_anew:
            return heads[position:]
    return heads


def _lines(path: Path, tail: int | None = None) -> list[bytes]:
    """The complete lines of a file, or of its tail; none if it does not exist."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(0 if tail is None else max(0, size - tail))
            data = file.read()
    except FileNotFoundError:
        return []
    lines = data.split(b"\n")[1 if start else 0 :]
    if not _is_complete(lines[-1]):
        lines.pop()  # empty, or cut off by a crash
    return lines


def _is_complete(line: bytes) -> bool:
    """Whether a line without a line break is a whole head, as an older version wrote it."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _append(path: Path, lines: Sequence[str]) -> None:
    """Append lines after the last complete one."""
    with path.open("a+b") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        last = file.read().rpartition(b"\n")[2]
        if last and _is_complete(last):
            file.write(b"\n")
        elif last:
            file.truncate(file.tell() - len(last))
        file.write("".join(f"{line}\n" for line in lines).encode())

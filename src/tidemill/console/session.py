"""Who is signed in: a key that was shown once, and a signed cookie that stands for it since.

The cookie holds the key's id, when the session began and was last used, and a signature that only a
reader of the key file can make. So it is good on every server that reads the file, survives a
restart, and is worth nothing once the key is revoked or has expired. It is no API key: the API and
the data plane do not take it.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from tidemill.errors import AccessError
from tidemill.keyring import KeyRecord, Scope
from tidemill.stores.api_keys import WatchedKeyring

COOKIE = "tidemill_session"
LONGEST_SECONDS = 24 * 3600.0
REFRESH_SECONDS = 60.0
TICKET_SECONDS = 300.0
ENDED = 4096  # sessions that were signed out of and are remembered until they would end anyway


@dataclass(frozen=True)
class Session:
    """One signed-in browser. Times in whole seconds since the epoch."""

    key: KeyRecord
    nonce: str
    began: int
    used: int

    def allows(self, scope: Scope) -> bool:
        return self.key.allows(scope, time.time())


class Sessions:
    """Opens, reads and ends sessions.

    Args:
        idle: Seconds without a page or an action after which a session ends.
    """

    def __init__(
        self, keyring: WatchedKeyring, idle: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._keyring = keyring
        self._idle = idle
        self._clock = clock
        self._ended: dict[str, float] = {}

    def open(self, token: str) -> Session:
        """A new session for whoever shows a key.

        Raises:
            AccessError: The key is unknown or has expired.
        """
        now = int(self._clock())
        record = self._keyring.find(token) if token.startswith("tm_") else None
        if record is None or not _alive(record, now):
            raise AccessError("That key is not known here, or has expired.", field="key")
        return Session(record, secrets.token_urlsafe(16), now, now)

    def cookie(self, session: Session) -> str:
        """What the browser keeps."""
        return f"{_body(session)}.{self._signature(session, 'session')}"

    def csrf(self, session: Session) -> str:
        """What a form of this session must carry, so that no other site can send one."""
        return self._signature(replace(session, used=0), "form")

    def read(self, cookie: str) -> Session | None:
        """The session of a cookie; None when it is forged, over, or its key is gone."""
        parts = cookie.split(".")
        if len(parts) != 5 or not all(part.isascii() and part.isdigit() for part in parts[2:4]):
            return None
        record = self._keyring.current().get(parts[0])
        if record is None:
            return None
        session = Session(record, parts[1], int(parts[2]), int(parts[3]))
        wanted = self._signature(session, "session")
        if not hmac.compare_digest(wanted.encode(), parts[4].encode("utf-8", "replace")):
            return None
        return session if self._runs(session) else None

    def touched(self, session: Session) -> Session | None:
        """The session as used now, where that is worth a new cookie."""
        now = int(self._clock())
        return replace(session, used=now) if now - session.used >= REFRESH_SECONDS else None

    def end(self, session: Session) -> None:
        """Take the session's cookie no more, on this server; on others it runs out."""
        now = self._clock()
        kept = {nonce: until for nonce, until in self._ended.items() if until > now}
        if len(kept) >= ENDED:
            del kept[next(iter(kept))]
        self._ended = {**kept, session.nonce: session.used + self._idle}

    def ticket(self, session: Session) -> str:
        """A key for some minutes, to ask the data plane with on the user's behalf.

        Its end is rounded, so that there are few of them.
        """
        until = (self._clock() // TICKET_SECONDS + 2) * TICKET_SECONDS
        return self._keyring.current().ticket(session.key, until)

    def _runs(self, session: Session) -> bool:
        now = self._clock()
        idle, whole = now - session.used, now - session.began
        fresh = idle < self._idle and whole < LONGEST_SECONDS
        return fresh and session.nonce not in self._ended and _alive(session.key, now)

    def _signature(self, session: Session, purpose: str) -> str:
        return self._keyring.current().sign(session.key, purpose, _body(session))


def _body(session: Session) -> str:
    return f"{session.key.id}.{session.nonce}.{session.began}.{session.used}"


def _alive(record: KeyRecord, now: float) -> bool:
    return record.expires is None or now < record.expires

"""Sign-in sessions: a browser shows an API key once, and gets a signed cookie in its place.

The cookie holds the key's id, and when the session started and was last used. It is signed with a
secret derived from the key file, so it is valid on every server that reads the file, survives a
restart, and is worthless once it is signed out, or the key is revoked or expired. It is not an API
key: the API and the data plane do not accept it. See decision 111.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from itsdangerous import BadData, Signer, URLSafeSerializer

from tidemill.errors import AccessError
from tidemill.keyring import KeyRecord, Scope
from tidemill.stores.api_keys import WatchedKeyring
from tidemill.stores.ended_sessions import EndedSessions

COOKIE = "tidemill_session"
MAX_SECONDS = 24 * 3600.0
RENEW_SECONDS = 60.0
TICKET_SECONDS = 300.0
SIGNER: dict[str, Any] = {"key_derivation": "hmac", "digest_method": hashlib.sha256}


@dataclass(frozen=True)
class Session:
    """One signed-in browser. `started` and `used` are whole seconds since the epoch."""

    key: KeyRecord
    nonce: str
    started: int
    used: int

    def allows(self, scope: Scope) -> bool:
        return self.key.allows(scope, time.time())


class Sessions:
    """Opens, reads and ends sessions.

    Args:
        idle: Seconds without a request after which a session expires.
        ended: The sessions that were signed out.
    """

    def __init__(
        self,
        keyring: WatchedKeyring,
        idle: float,
        ended: EndedSessions,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keyring = keyring
        self._idle = idle
        self._clock = clock
        self._ended = ended

    def open(self, token: str) -> Session:
        """Open a session with an API key.

        Raises:
            AccessError: The key is unknown or has expired.
        """
        now = int(self._clock())
        record = self._keyring.find(token) if token.startswith("tm_") else None
        if record is None or not _is_valid(record, now):
            raise AccessError("The key is unknown or has expired.", field="key")
        return Session(record, secrets.token_urlsafe(16), now, now)

    def cookie(self, session: Session) -> str:
        """The value of the session's cookie."""
        payload = [session.nonce, session.started, session.used]
        return f"{session.key.id}.{self._serializer(session.key).dumps(payload)}"

    def csrf(self, session: Session) -> str:
        """The token that every form of this session must send, which other sites cannot know."""
        signer = Signer(self._secret(session.key), salt="tidemill.csrf", **SIGNER)
        return signer.get_signature(f"{session.nonce}.{session.started}").decode()

    def read(self, cookie: str) -> Session | None:
        """The session of a cookie; None if it is forged or expired, or its key is revoked."""
        key_id, _, signed = cookie.partition(".")
        record = self._keyring.current().get(key_id)
        if record is None:
            return None
        try:
            nonce, started, used = self._serializer(record).loads(signed)
        except (BadData, UnicodeError):
            return None
        session = Session(record, nonce, started, used)
        # Base64 has several spellings of one signature: accept only the one that was issued.
        if not hmac.compare_digest(
            self.cookie(session).encode(), cookie.encode("utf-8", "replace")
        ):
            return None
        return session if self._is_active(session) else None

    def touched(self, session: Session) -> Session | None:
        """The session as used now, if its cookie is due for renewal."""
        now = int(self._clock())
        return replace(session, used=now) if now - session.used >= RENEW_SECONDS else None

    def end(self, session: Session) -> None:
        """End a session on every server: no copy of its cookie is accepted from then on.

        Raises:
            UnavailableError: Other servers could not be told.
        """
        self._ended.add(session.nonce, session.started + MAX_SECONDS)

    def ticket(self, session: Session) -> str:
        """A short-lived key with which the console calls the data plane for the user.

        Its expiry is rounded up, so that requests share few tickets.
        """
        until = (self._clock() // TICKET_SECONDS + 2) * TICKET_SECONDS
        return self._keyring.current().ticket(session.key, until)

    def _is_active(self, session: Session) -> bool:
        now = self._clock()
        idle, age = now - session.used, now - session.started
        fresh = idle < self._idle and age < MAX_SECONDS
        return fresh and session.nonce not in self._ended and _is_valid(session.key, now)

    def _serializer(self, record: KeyRecord) -> URLSafeSerializer:
        return URLSafeSerializer(
            self._secret(record), salt="tidemill.session", signer_kwargs=SIGNER
        )

    def _secret(self, record: KeyRecord) -> str:
        return self._keyring.current().sign(record, "console", "session")


def _is_valid(record: KeyRecord, now: float) -> bool:
    return record.expires is None or now < record.expires

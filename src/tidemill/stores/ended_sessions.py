"""Signed-out sessions of the console, which every server on this database refuses.

A server that handles a sign-out refuses the session at once, the others within two seconds. While
the database cannot be reached, each goes by what it last read.
"""

from __future__ import annotations

import logging
import threading
import time

from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError

from tidemill.errors import TidemillError
from tidemill.stores.database.database import Database
from tidemill.stores.database.tables import ended_sessions

CHECK_SECONDS = 1.0

log = logging.getLogger(__name__)


class EndedSessions:
    """The table `ended_sessions`, read by a thread so that no request waits for it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._own: dict[str, float] = {}
        self._stored: frozenset[str] = frozenset()
        self._checked = 0.0
        self._reading = threading.Lock()
        self._read()

    def add(self, nonce: str, until: float) -> None:
        """End a session, at once here and soon on other servers.

        Raises:
            UnavailableError: The database cannot be reached; only this server knows of the end.
        """
        now = time.time()
        self._own = {each: end for each, end in self._own.items() if end > now} | {nonce: until}
        try:
            with self._database.write() as connection:
                connection.execute(delete(ended_sessions).where(ended_sessions.c.until < now))
                connection.execute(insert(ended_sessions).values(nonce=nonce, until=until))
        except IntegrityError:
            log.debug("the session had ended already")

    def __contains__(self, nonce: str) -> bool:
        now = time.monotonic()
        if now - self._checked >= CHECK_SECONDS and self._reading.acquire(blocking=False):
            self._checked = now
            threading.Thread(target=self._read_again, name="sessions", daemon=True).start()
        return nonce in self._own or nonce in self._stored

    def _read_again(self) -> None:
        try:
            self._read()
        finally:
            self._reading.release()

    def _read(self) -> None:
        query = select(ended_sessions.c.nonce).where(ended_sessions.c.until > time.time())
        try:
            self._stored = frozenset(row["nonce"] for row in self._database.rows(query))
        except TidemillError as error:
            log.warning("ended sessions cannot be read: %s", error)

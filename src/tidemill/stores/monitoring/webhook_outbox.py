"""Notices for the webhook: written with what they tell of, sent later, as often as it takes.

    POST <webhook_url>
    X-Tidemill-Event: trigger.opened
    X-Tidemill-Delivery: <the notice's id, the same at every attempt>
    X-Tidemill-Signature: t=<seconds since the epoch>,v1=<hex HMAC-SHA256 of "<t>.<body>">

Any 2xx answer is a delivery. After anything else the notice is tried again, later each time, for
about two days.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from sqlalchemy import Connection, insert, select, update

from tidemill.errors import UnavailableError
from tidemill.stores.database.database import Database, EpochNow, new_row_id
from tidemill.stores.database.tables import notices

logger = logging.getLogger(__name__)

Event = str
POLL_SECONDS = 1.0
SEND_SECONDS = 10.0
#: Nobody else sends a notice for so long after somebody took it.
LEASE_SECONDS = 3 * SEND_SECONDS
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 3600.0
MAX_ATTEMPTS = 60
#: Older notices are no news: a webhook that is set up later is not told of them.
STALE_SECONDS = 2 * 86400.0


@dataclass(frozen=True)
class WebhookTarget:
    """Where notices go, and what signs them."""

    url: str
    secret: str | None = None


def enqueue_event(connection: Connection, event: Event, body: Mapping[str, Any]) -> None:
    """Write a notice within the transaction of what it tells of."""
    values = {"id": new_row_id(), "event": event, "body": dict(body), "attempts": 0}
    connection.execute(insert(notices).values(**values, time=EpochNow(), not_before=EpochNow()))


def sign(secret: str, moment: int, body: bytes) -> str:
    """The value of X-Tidemill-Signature."""
    digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


def pause_after(attempts: int) -> float:
    """Seconds until a notice is tried again after so many failures."""
    return float(min(FIRST_PAUSE * 2 ** min(attempts - 1, 30), LONGEST_PAUSE))


class WebhookSender:
    """Sends the notices of one database to one hook.

    Args:
        client: Sends the requests; None makes one.
    """

    def __init__(
        self, database: Database, hook: WebhookTarget, client: httpx.Client | None = None
    ) -> None:
        self._database = database
        self._hook = hook
        self._client = client or httpx.Client(timeout=SEND_SECONDS, follow_redirects=False)

    def deliver(self) -> int:
        """Send everything that is due; how many were delivered.

        Raises:
            UnavailableError: The database cannot be reached.
        """
        delivered = 0
        for notice in self._claim():
            problem = self._send(notice)
            delivered += problem is None
            self._settle(notice, problem)
        return delivered

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set; runs in a thread of its own, so that nobody waits."""
        while not stop.wait(POLL_SECONDS):
            try:
                self.deliver()
            except UnavailableError as error:
                logger.debug("notices wait: %s", error)
            except Exception:
                logger.exception("notices could not be sent")
        self._client.close()

    def _claim(self) -> list[dict[str, Any]]:
        now = EpochNow()
        due = select(notices.c.id).where(
            notices.c.delivered.is_(None),
            notices.c.not_before <= now,
            notices.c.attempts < MAX_ATTEMPTS,
            notices.c.time > now - STALE_SECONDS,
        )
        found = self._database.rows(due.order_by(notices.c.id).limit(20))
        taken = []
        for row in found:
            statement = update(notices).where(
                notices.c.id == row["id"], notices.c.not_before <= now,
                notices.c.delivered.is_(None),
            ).values(
                not_before=now + LEASE_SECONDS, attempts=notices.c.attempts + 1
            ).returning(notices)  # fmt: skip
            with self._database.write() as connection:
                held = connection.execute(statement).mappings().one_or_none()
            taken += [] if held is None else [dict(held)]
        return taken

    def _send(self, notice: Mapping[str, Any]) -> str | None:
        """None when it was taken, else what went wrong."""
        body = json.dumps({"event": notice["event"], "trigger": notice["body"]}).encode()
        headers = {
            "Content-Type": "application/json",
            "X-Tidemill-Event": notice["event"],
            "X-Tidemill-Delivery": notice["id"],
        }
        if self._hook.secret:
            headers["X-Tidemill-Signature"] = sign(self._hook.secret, int(time.time()), body)
        try:
            answer = self._client.post(self._hook.url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"{type(error).__name__}: {error}"
        return None if answer.is_success else f"it answered {answer.status_code}"

    def _settle(self, notice: Mapping[str, Any], problem: str | None) -> None:
        now = EpochNow()
        if problem is None:
            values: dict[str, Any] = {"delivered": now, "error": None}
        else:
            pause = pause_after(notice["attempts"])
            values = {"not_before": now + pause, "error": problem[:1000]}
            logger.warning("the webhook was not told of %s: %s", notice["event"], problem)
        with self._database.write() as connection:
            statement = update(notices).where(notices.c.id == notice["id"])
            connection.execute(statement.values(**values))

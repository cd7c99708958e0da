"""Webhook outbox: events are written in the transaction that causes them, and sent later.

    POST <webhook_url>
    X-Tidemill-Event: trigger.opened
    X-Tidemill-Delivery: <the event's id, the same in every attempt>
    X-Tidemill-Signature: t=<seconds since the epoch>,v1=<hex HMAC-SHA256 of "<t>.<body>">

A 2xx response is a delivery. Otherwise the event is retried with growing pauses, for about two
days.
"""

from __future__ import annotations

import asyncio
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
#: No other sender claims an event for this long after it was claimed.
LEASE_SECONDS = 3 * SEND_SECONDS
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 3600.0
MAX_ATTEMPTS = 60
#: Older events are not sent, such as those from before a webhook was configured.
STALE_SECONDS = 2 * 86400.0


@dataclass(frozen=True)
class WebhookTarget:
    """The webhook's URL, and the secret that signs its events."""

    url: str
    secret: str | None = None


def enqueue_event(connection: Connection, event: Event, body: Mapping[str, Any]) -> None:
    """Add an event to the outbox, in the transaction that causes it."""
    values = {"id": new_row_id(), "event": event, "body": dict(body), "attempts": 0}
    connection.execute(insert(notices).values(**values, time=EpochNow(), not_before=EpochNow()))


def sign(secret: str, moment: int, body: bytes) -> str:
    """Return the value of X-Tidemill-Signature."""
    digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


def pause_after(attempts: int) -> float:
    """Return the seconds before an event is retried after this many failures."""
    return float(min(FIRST_PAUSE * 2 ** min(attempts - 1, 30), LONGEST_PAUSE))


class WebhookSender:
    """Sends the events of one database to one webhook.

    Args:
        seconds: How long a request may take in all.
        transport: Carries the requests; None is the network.
    """

    def __init__(
        self,
        database: Database,
        target: WebhookTarget,
        *,
        seconds: float = SEND_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._database = database
        self._target = target
        self._seconds = seconds
        self._transport = transport

    def deliver(self) -> int:
        """Send every event that is due; return how many were delivered.

        Raises:
            UnavailableError: The database cannot be reached.
        """
        delivered = 0
        for event in self._claim():
            problem = self._send(event)
            delivered += problem is None
            self._record(event, problem)
        return delivered

    def run(self, stop: threading.Event) -> None:
        """Deliver events until `stop` is set; runs in a thread of its own."""
        while not stop.wait(POLL_SECONDS):
            try:
                self.deliver()
            except UnavailableError as error:
                logger.debug("webhook events wait: %s", error)
            except Exception:
                logger.exception("webhook events could not be sent")

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
                claimed = connection.execute(statement).mappings().one_or_none()
            taken += [] if claimed is None else [dict(claimed)]
        return taken

    def _send(self, event: Mapping[str, Any]) -> str | None:
        """Send an event; return None if it was delivered, else what went wrong."""
        body = json.dumps({"event": event["event"], "trigger": event["body"]}).encode()
        headers = {
            "Content-Type": "application/json",
            "X-Tidemill-Event": event["event"],
            "X-Tidemill-Delivery": event["id"],
        }
        if self._target.secret:
            headers["X-Tidemill-Signature"] = sign(self._target.secret, int(time.time()), body)
        try:
            status = asyncio.run(self._post(body, headers))
        except TimeoutError:
            return f"it did not respond in {self._seconds:g} s"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"{type(error).__name__}: {error}"
        return None if 200 <= status < 300 else f"it responded with {status}"

    async def _post(self, body: bytes, headers: dict[str, str]) -> int:
        """Send a request, and return the answer's status.

        A deadline for the whole, because timeouts of reads begin again with every byte. The body of
        the answer is not read: only its status matters, and it may have no end.
        """
        async with (
            asyncio.timeout(self._seconds),
            httpx.AsyncClient(transport=self._transport, timeout=self._seconds) as client,
            client.stream("POST", self._target.url, content=body, headers=headers) as answer,
        ):
            return answer.status_code

    def _record(self, event: Mapping[str, Any], problem: str | None) -> None:
        now = EpochNow()
        if problem is None:
            values: dict[str, Any] = {"delivered": now, "error": None}
        else:
            pause = pause_after(event["attempts"])
            values = {"not_before": now + pause, "error": problem[:1000]}
            logger.warning("webhook event %s was not delivered: %s", event["event"], problem)
        with self._database.write() as connection:
            statement = update(notices).where(notices.c.id == event["id"])
            connection.execute(statement.values(**values))

"""The log of requests to the control plane, written without delaying any request.

Requests are collected in memory and written by a thread once a second: one row each in
`request_log`, and sums by minute and route in `api_metrics`. While the database is down a bounded
number of requests is kept in memory; what is dropped beyond that is counted.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, case, insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from tidemill.border import storable
from tidemill.errors import RequestError, UnavailableError
from tidemill.stores.database.database import Database
from tidemill.stores.database.queries import ResultPage, conditions, read_page
from tidemill.stores.database.tables import api_metrics, request_log

MAX_BUFFERED = 20_000
FLUSH_SECONDS = 1.0
MAX_PATH = 2_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoggedRequest:
    """One answered request. `route` is the template, which has few values, not the path."""

    time: float
    method: str
    route: str
    path: str
    status: int
    milliseconds: float
    address: str | None = None
    key_id: str | None = None
    request_id: str | None = None


class RequestLog:
    """A buffer in front of two tables; the thread starts with the first request."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._buffer: deque[LoggedRequest] = deque()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def add(self, request: LoggedRequest) -> None:
        """Add a request to the buffer; returns at once."""
        with self._lock:
            if len(self._buffer) >= MAX_BUFFERED:
                self._buffer.popleft()
                self.dropped += 1
            self._buffer.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Write the buffered requests in one transaction.

        Raises:
            UnavailableError: The database cannot be reached; the requests are still buffered.
        """
        with self._lock:
            taken = list(self._buffer)
            self._buffer.clear()
        if not taken:
            return
        try:
            self._store(taken)
        except BaseException:
            with self._lock:
                self._buffer.extendleft(reversed(taken))
            raise

    def _store(self, requests: list[LoggedRequest]) -> None:
        """Write requests in one transaction; if one cannot be stored, each in one of its own."""
        try:
            with self._database.write() as connection:
                connection.execute(insert(request_log), [_row(request) for request in requests])
                for sums in _summed(requests):
                    _add_to_metrics(connection, self._database.dialect, sums)
        except (RequestError, IntegrityError) as error:
            if len(requests) == 1:
                self.dropped += 1
                log.error("a request to %s cannot be logged: %s", requests[0].route, error)
                return
            for request in requests:
                self._store([request])

    def page(
        self,
        *,
        route: str | None = None,
        method: str | None = None,
        status: int | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> ResultPage[dict[str, Any]]:
        """Return a page of requests, newest first."""
        table = request_log.c
        equal = {table.route: route, table.method: method, table.status: status}
        where = conditions(equal, time=table.time, since=since, until=until)
        return read_page(
            self._database, request_log, table.id, where=where, limit=limit, cursor=cursor
        )

    def close(self) -> None:
        """Stop the thread and write the rest of the buffer, if the database can be reached."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._try_to_flush()

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self._try_to_flush()

    def _try_to_flush(self) -> None:
        try:
            self.flush()
        except UnavailableError as error:
            log.warning("the request log waits: %s", error)
        except Exception:
            log.exception("the request log could not be written")


def api_minutes(
    database: Database,
    *,
    route: str | None = None,
    since: float | None = None,
    until: float | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> ResultPage[dict[str, Any]]:
    """Return a page of requests by minute and route, newest first, with their mean latency."""
    table = api_metrics.c
    where = conditions({table.route: route}, time=table.minute, since=since, until=until)
    page = read_page(database, api_metrics, table.id, where=where, limit=limit, cursor=cursor)
    return ResultPage([_with_mean(row) for row in page.items], page.next)


def _with_mean(row: dict[str, Any]) -> dict[str, Any]:
    total = row.pop("milliseconds")
    return {**row, "mean_milliseconds": total / row["requests"]}


def _row(request: LoggedRequest) -> dict[str, Any]:
    """The request as a row, its texts cut to their columns: an address may be a proxy's text."""
    return {
        name: storable(value, getattr(request_log.c[name].type, "length", None) or MAX_PATH)
        if isinstance(value, str)
        else value
        for name, value in asdict(request).items()
    }


def _summed(requests: list[LoggedRequest]) -> list[dict[str, Any]]:
    sums: dict[tuple[float, str, str, int], dict[str, Any]] = {}
    for request in requests:
        key = (request.time // 60 * 60, request.method, request.route, request.status)
        if key not in sums:
            names = dict(zip(("minute", "method", "route", "status"), key, strict=True))
            sums[key] = {**names, "requests": 0, "milliseconds": 0.0, "slowest": 0.0}
        row = sums[key]
        row["requests"] += 1
        row["milliseconds"] += request.milliseconds
        row["slowest"] = max(row["slowest"], request.milliseconds)
    # In the same order everywhere, so that two processes never deadlock on rows.
    return [sums[key] for key in sorted(sums)]


def _add_to_metrics(connection: Connection, dialect: str, row: dict[str, Any]) -> None:
    make = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = make(api_metrics).values(row)
    old, new = api_metrics.c, statement.excluded
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["minute", "method", "route", "status"],
            set_={
                "requests": old.requests + new.requests,
                "milliseconds": old.milliseconds + new.milliseconds,
                "slowest": case((old.slowest > new.slowest, old.slowest), else_=new.slowest),
            },
        )
    )

"""Probes of APIs, stored in the table `monitor_results`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import insert

from tidemill.stores.database.database import Database
from tidemill.stores.database.queries import ResultPage, conditions, read_page
from tidemill.stores.database.tables import monitor_results


@dataclass(frozen=True)
class Probe:
    """One request to an API, and its response.

    Attributes:
        time: When it was sent, in seconds since the epoch.
        target: The URL.
        probe: health, ready or predict.
        healthy: Whether the response was as expected.
        status: HTTP status; None without a response.
        milliseconds: Until the response was read, or the request timed out.
        error: What was wrong.
    """

    time: float
    target: str
    probe: str
    healthy: bool
    status: int | None = None
    milliseconds: float | None = None
    error: str | None = None


class ApiProbes:
    """The table `monitor_results` in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, probes: Sequence[Probe]) -> None:
        """Store probes.

        Raises:
            UnavailableError: The database cannot be reached; nothing was stored.
        """
        if probes:
            with self._database.write() as connection:
                connection.execute(insert(monitor_results), [asdict(probe) for probe in probes])

    def page(
        self,
        *,
        target: str | None = None,
        probe: str | None = None,
        since: float | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> ResultPage[dict[str, Any]]:
        """Return a page of probes, newest first."""
        table = monitor_results.c
        where = conditions({table.target: target, table.probe: probe}, time=table.time, since=since)
        return read_page(
            self._database,
            monitor_results,
            table.id,
            where=where,
            limit=limit,
            cursor=cursor,
        )

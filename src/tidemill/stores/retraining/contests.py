"""Contests: which versions compete with a champion, on which rows, and the result.

A model has at most one open contest, and a job opens one contest however often it is retried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from tidemill.errors import ConflictError
from tidemill.stores.database.database import Database, EpochNow, new_row_id
from tidemill.stores.database.queries import json_safe
from tidemill.stores.database.tables import contests

State = Literal["open", "won", "kept"]

#: Key of the decision under which the result of the winner's probation is stored.
PROBATION = "probation"


class ContestChallenger(msgspec.Struct, frozen=True):
    """A version that competes, and its training window; a former champion was not retrained."""

    version: str
    window: str
    former: bool = False

    @property
    def name(self) -> str:
        return f"version {self.version} ({self.window})"


@dataclass(frozen=True)
class NewContest:
    """A contest to open.

    Attributes:
        champion: The version to beat.
        cut: No challenger was trained on predictions made from then on (seconds since the epoch).
        changed: The change point; None where no change is known.
        learned: Number of labelled rows since the change, or in all.
        scale: The absolute error that counts as a loss of 1; 1 for classifiers.
    """

    model: str
    champion: str
    challengers: tuple[ContestChallenger, ...]
    cut: float
    learned: int
    scale: float = 1.0
    changed: float | None = None
    trigger_id: str | None = None
    job_id: str | None = None


@dataclass(frozen=True)
class ContestRow(NewContest):
    """A row of the table; `rows` labelled rows led to `decision`."""

    id: str = ""
    opened: float = 0.0
    state: State = "open"
    rows: int = 0
    decision: Mapping[str, Any] | None = field(default=None)
    winner: str | None = None
    closed: float | None = None

    @property
    def probation(self) -> Mapping[str, Any] | None:
        """The result of the probation after a promotion; None before it is over."""
        return (self.decision or {}).get(PROBATION)

    @property
    def resulting_champion(self) -> str | None:
        """The champion after the contest: the winner, unless the former champion has returned."""
        back = self.probation is not None and self.probation["state"] == "back"
        return self.champion if back or self.state == "kept" else self.winner


_NAMES = tuple(f.name for f in fields(ContestRow))


class Contests:
    """The table of contests in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, new: NewContest) -> ContestRow:
        """Open a contest; a job that has opened one gets that one.

        Raises:
            ConflictError: The model has an open contest.
        """
        values: dict[str, Any] = {f.name: getattr(new, f.name) for f in fields(NewContest)}
        values["challengers"] = msgspec.to_builtins(list(new.challengers))
        values |= {"id": new_row_id(), "state": "open", "rows": 0, "opened": EpochNow()}
        statement = insert(contests).values(values).returning(contests)
        try:
            with self._database.write() as connection:
                return _row(connection.execute(statement).mappings().one())
        except IntegrityError:
            return self._earlier(new)

    def _earlier(self, new: NewContest) -> ContestRow:
        found = self.by_job(new.job_id) if new.job_id is not None else None
        if found is None:
            raise ConflictError(
                f"'{new.model}' has an open contest.", remedy="Wait until it is decided."
            )
        return found

    def by_job(self, job_id: str) -> ContestRow | None:
        """Return the contest that a job opened."""
        return self._first(contests.c.job_id == job_id)

    def opened(self, model: str) -> ContestRow | None:
        """Return the model's open contest."""
        return self._first(contests.c.model == model, contests.c.closed.is_(None))

    def newest(self, model: str) -> ContestRow | None:
        """Return the model's newest contest, open or not."""
        return self._first(contests.c.model == model)

    def record_progress(self, contest_id: str, rows: int, decision: Mapping[str, Any]) -> None:
        """Store the present decision of an open contest."""
        self._change(contest_id, {"rows": rows, "decision": json_safe(dict(decision))})

    def close(
        self,
        contest_id: str,
        state: Literal["won", "kept"],
        *,
        rows: int,
        decision: Mapping[str, Any],
        winner: str | None = None,
    ) -> None:
        """Close a contest; a closed one does not change."""
        values = {"state": state, "rows": rows, "decision": json_safe(dict(decision))}
        self._change(contest_id, values | {"winner": winner, "closed": EpochNow()})

    def end_probation(self, contest_id: str, outcome: Mapping[str, Any]) -> None:
        """Store the result of a probation with its contest."""
        where = (contests.c.id == contest_id, contests.c.closed.is_not(None))
        with self._database.write() as connection:
            held = connection.execute(select(contests.c.decision).where(*where)).scalar()
            decision = {**(held or {}), PROBATION: json_safe(dict(outcome))}
            connection.execute(update(contests).where(*where).values(decision=decision))

    def _change(self, contest_id: str, values: Mapping[str, Any]) -> None:
        where = (contests.c.id == contest_id, contests.c.closed.is_(None))
        with self._database.write() as connection:
            connection.execute(update(contests).where(*where).values(values))

    def _first(self, *where: Any) -> ContestRow | None:
        query = select(contests).where(*where).order_by(contests.c.id.desc()).limit(1)
        found = self._database.rows(query)
        return _row(found[0]) if found else None


def _row(row: Mapping[Any, Any]) -> ContestRow:
    values = {name: row[name] for name in _NAMES}
    values["challengers"] = tuple(msgspec.convert(c, ContestChallenger) for c in row["challengers"])
    return ContestRow(**values)

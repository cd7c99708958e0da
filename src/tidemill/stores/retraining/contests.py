"""Contests: which versions compete with a champion, on which rows, and what came of it.

A model has one open contest at most, and a job opens one contest however often it is tried.
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

#: Under this name what came of a winner's probation stays with the decision.
PROBATION = "probation"


class ContestChallenger(msgspec.Struct, frozen=True):
    """A version that competes: what it learned from; a former champion learned nothing new."""

    version: str
    window: str
    former: bool = False

    @property
    def name(self) -> str:
        return f"version {self.version} ({self.window})"


@dataclass(frozen=True)
class NewContest:
    """What is to be opened.

    Attributes:
        champion: The version to beat.
        cut: No challenger learned from predictions made from then on (seconds since the epoch).
        changed: When things probably changed; None where nothing says so.
        learned: How many labelled rows there were since the change, or in all.
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
    """One row; `rows` is how many labelled rows were judged, `decision` what they came to."""

    id: str = ""
    opened: float = 0.0
    state: State = "open"
    rows: int = 0
    decision: Mapping[str, Any] | None = field(default=None)
    winner: str | None = None
    closed: float | None = None

    @property
    def probation(self) -> Mapping[str, Any] | None:
        """What came of the time after a promotion; None before it is over."""
        return (self.decision or {}).get(PROBATION)

    @property
    def resulting_champion(self) -> str | None:
        """Who came out of it as champion: the winner, unless the last champion is back since."""
        back = self.probation is not None and self.probation["state"] == "back"
        return self.champion if back or self.state == "kept" else self.winner


_NAMES = tuple(f.name for f in fields(ContestRow))


class Contests:
    """The table of contests in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, new: NewContest) -> ContestRow:
        """Open a contest; a job that has opened one gets that one again.

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
        """The contest that a job opened."""
        return self._first(contests.c.job_id == job_id)

    def of_trigger(self, trigger_id: str) -> ContestRow | None:
        """The newest contest of a trigger."""
        return self._first(contests.c.trigger_id == trigger_id)

    def opened(self, model: str) -> ContestRow | None:
        """The model's open contest."""
        return self._first(contests.c.model == model, contests.c.closed.is_(None))

    def newest(self, model: str) -> ContestRow | None:
        """The model's newest contest, open or not."""
        return self._first(contests.c.model == model)

    def record_progress(self, contest_id: str, rows: int, decision: Mapping[str, Any]) -> None:
        """Keep how an open contest stands."""
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
        """End a contest; the first end counts."""
        values = {"state": state, "rows": rows, "decision": json_safe(dict(decision))}
        self._change(contest_id, values | {"winner": winner, "closed": EpochNow()})

    def end_probation(self, contest_id: str, outcome: Mapping[str, Any]) -> None:
        """Keep what came of the time after a promotion, with the contest that led to it."""
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

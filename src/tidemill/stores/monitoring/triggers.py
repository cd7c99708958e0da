"""Triggers: recorded decisions that a model needs retraining, or needs attention.

    open ──> retraining ──> promoted | kept champion | failed      triggers that retrain
    open ──> cleared | dismissed                                    triggers that only report

A row is written before anything else is done. Every cause has a key that is unique for the model,
so it is acted on once, however many processes find it. Opening or closing a trigger puts an event
for the webhook into the outbox in the same transaction.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from tidemill.errors import ConflictError, NotFoundError
from tidemill.policies import Cause
from tidemill.stores.database.database import Database, EpochNow, new_row_id
from tidemill.stores.database.queries import ResultPage, conditions, json_safe, read_page
from tidemill.stores.database.tables import triggers
from tidemill.stores.monitoring.webhook_outbox import enqueue_event

TriggerState = Literal[
    "open", "retraining", "promoted", "kept champion", "failed", "dismissed", "cleared"
]
CLOSED: tuple[TriggerState, ...] = ("promoted", "kept champion", "failed", "dismissed", "cleared")


@dataclass(frozen=True)
class NewTrigger:
    """A trigger to open.

    Attributes:
        version: The champion that it is about.
        cause_key: Identifies the cause, for the model; None makes it a cause of its own.
        retrains: Whether it retrains the model, or only reports.
        actor: Who requested it; None for the monitor.
        evidence: Why, as plain values.
        changed: The change point that the alarm found, in seconds since the epoch; None where none
            is known.
    """

    model: str
    cause: Cause
    reason: str
    version: str | None = None
    cause_key: str | None = None
    retrains: bool = True
    actor: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    changed: float | None = None


@dataclass(frozen=True)
class Trigger(NewTrigger):
    """A row of the table; times in seconds since the epoch."""

    id: str = ""
    time: float = 0.0
    state: TriggerState = "open"
    job_id: str | None = None
    closed: float | None = None


_NAMES = tuple(f.name for f in fields(Trigger))
#: Fields that trigger files and webhooks do not have.
_INTERNAL = ("cause_key", "changed")


class Triggers:
    """The table of triggers in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, new: NewTrigger) -> Trigger:
        """Open a trigger.

        Raises:
            ConflictError: The model had a trigger of this cause key, has an open trigger of this
                cause, or is being retrained; the message names that trigger.
        """
        try:
            with self._database.write() as connection:
                return open_trigger(connection, new)
        except IntegrityError:
            raise self._conflict(new) from None

    def _conflict(self, new: NewTrigger) -> ConflictError:
        for trigger in self.opened(new.model):
            if trigger.cause == new.cause or (trigger.retrains and new.retrains):
                return trigger_conflict(trigger)
        return ConflictError(f"'{new.model}' has had a trigger for this cause.")

    def start(self, trigger_id: str, job_id: str) -> Trigger:
        """Record the job that retrains for a trigger."""
        where = (triggers.c.id == trigger_id, triggers.c.closed.is_(None))
        statement = update(triggers).where(*where).values(state="retraining", job_id=job_id)
        with self._database.write() as connection:
            connection.execute(statement)
        return self.get(trigger_id)

    def close(
        self, trigger_id: str, state: TriggerState, evidence: Mapping[str, Any] | None = None
    ) -> Trigger:
        """Close a trigger and add to its evidence; a closed trigger does not change.

        Raises:
            NotFoundError: There is no such trigger.
        """
        with self._database.write() as connection:
            close_trigger(connection, trigger_id, state, evidence or {})
        return self.get(trigger_id)

    def get(self, trigger_id: str) -> Trigger:
        """Return a trigger.

        Raises:
            NotFoundError: There is no trigger with that id.
        """
        found = self.find(trigger_id)
        if found is None:
            raise NotFoundError(f"There is no trigger '{trigger_id}'.", field="trigger_id")
        return found

    def find(self, trigger_id: str) -> Trigger | None:
        """Return a trigger, or None."""
        found = self._database.rows(select(triggers).where(triggers.c.id == trigger_id))
        return _trigger(found[0]) if found else None

    def by_key(self, model: str, cause_key: str) -> Trigger | None:
        """Return the trigger of a cause key, or None."""
        where = (triggers.c.model == model, triggers.c.cause_key == cause_key)
        found = self._database.rows(select(triggers).where(*where))
        return _trigger(found[0]) if found else None

    def opened(self, model: str | None = None) -> list[Trigger]:
        """Return the triggers that are not closed, oldest first."""
        query = select(triggers).where(triggers.c.closed.is_(None)).order_by(triggers.c.id)
        if model is not None:
            query = query.where(triggers.c.model == model)
        return [_trigger(row) for row in self._database.rows(query)]

    def newest(self, model: str, *, retrains: bool = True) -> Trigger | None:
        """Return the model's newest trigger that retrains, or that only reports."""
        query = select(triggers).where(triggers.c.model == model, triggers.c.retrains.is_(retrains))
        found = self._database.rows(query.order_by(triggers.c.id.desc()).limit(1))
        return _trigger(found[0]) if found else None

    def page(
        self,
        *,
        model: str | None = None,
        cause: str | None = None,
        state: str | None = None,
        since: float | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> ResultPage[Trigger]:
        """Return a page of triggers, newest first."""
        table = triggers.c
        where = conditions(
            {table.model: model, table.cause: cause, table.state: state},
            time=table.time,
            since=since,
        )
        found = read_page(
            self._database, triggers, table.id, where=where, limit=limit, cursor=cursor
        )
        return ResultPage([_trigger(row) for row in found.items], found.next)

    def counts(self) -> list[tuple[str, str, int]]:
        """Count triggers, open and closed: (model, cause, count)."""
        query = select(triggers.c.model, triggers.c.cause, func.count().label("n"))
        found = self._database.rows(query.group_by(triggers.c.model, triggers.c.cause))
        return [(row["model"], row["cause"], row["n"]) for row in found]


def open_trigger(connection: Connection, new: NewTrigger) -> Trigger:
    """Open a trigger within a transaction.

    Raises:
        IntegrityError: There is a trigger of this cause key, an open trigger of this cause, or a
            retraining that has not ended.
    """
    identity = new_row_id()
    values: dict[str, Any] = {f.name: getattr(new, f.name) for f in fields(NewTrigger)}
    values |= {"id": identity, "evidence": json_safe(dict(new.evidence)), "state": "open"}
    values["cause_key"] = (new.cause_key or f"{new.cause}:{identity}")[:255]
    statement = insert(triggers).values(**values, time=EpochNow()).returning(triggers)
    trigger = _trigger(connection.execute(statement).mappings().one())
    enqueue_event(connection, "trigger.opened", as_document(trigger))
    return trigger


def close_trigger(
    connection: Connection, trigger_id: str, state: TriggerState, evidence: Mapping[str, Any]
) -> None:
    """Close a trigger within a transaction; a closed trigger does not change."""
    where = (triggers.c.id == trigger_id, triggers.c.closed.is_(None))
    row = connection.execute(select(triggers.c.evidence).where(*where)).one_or_none()
    if row is None:
        return
    merged = json_safe({**(row[0] or {}), **evidence})
    statement = update(triggers).where(*where).values(
        state=state, evidence=merged, closed=EpochNow()
    ).returning(triggers)  # fmt: skip
    closed = connection.execute(statement).mappings().one_or_none()
    if closed is not None:
        enqueue_event(connection, "trigger.closed", as_document(_trigger(closed)))


def as_document(trigger: Trigger) -> dict[str, Any]:
    """Return the trigger as trigger files and webhooks have it; times are ISO 8601, UTC."""
    document = {name: getattr(trigger, name) for name in _NAMES if name not in _INTERNAL}
    document["time"] = _iso(trigger.time)
    document["closed"] = None if trigger.closed is None else _iso(trigger.closed)
    found: dict[str, Any] = json_safe(document)
    return found


def trigger_conflict(trigger: Trigger) -> ConflictError:
    """Return the error of a trigger that cannot be opened while this one is."""
    return ConflictError(
        f"Trigger {trigger.id} of '{trigger.model}' ({trigger.cause}) is {trigger.state}.",
        remedy="Wait until it is closed, or dismiss it.",
    )


def _trigger(row: Mapping[Any, Any]) -> Trigger:
    return Trigger(**{name: row[name] for name in _NAMES})


def _iso(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))

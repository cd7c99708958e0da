"""Triggers: recorded decisions that a model needs retraining, or that somebody should look.

    open ──> retraining ──> promoted | kept champion | failed      those that retrain
    open ──> cleared | dismissed                                    those that only report

A row is written before anything follows from it, and a cause has one key, so that it is acted on
once however often and by whomever it is found. Whatever opens or closes a trigger leaves a notice
in the same transaction, for the webhook.
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
from tidemill.stores.database.queries import ResultPage, json_safe, read_page
from tidemill.stores.database.tables import triggers
from tidemill.stores.monitoring.webhook_outbox import enqueue_event

TriggerState = Literal[
    "open", "retraining", "promoted", "kept champion", "failed", "dismissed", "cleared"
]
CLOSED: tuple[TriggerState, ...] = ("promoted", "kept champion", "failed", "dismissed", "cleared")


@dataclass(frozen=True)
class NewTrigger:
    """What is to be recorded; `cause_key` None makes it a cause of its own."""

    model: str
    cause: Cause
    reason: str
    version: str | None = None
    cause_key: str | None = None
    retrains: bool = True
    actor: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trigger(NewTrigger):
    """One row; times in seconds since the epoch."""

    id: str = ""
    time: float = 0.0
    state: TriggerState = "open"
    job_id: str | None = None
    closed: float | None = None


_NAMES = tuple(f.name for f in fields(Trigger))


class Triggers:
    """The table of triggers in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, new: NewTrigger) -> Trigger:
        """Record a trigger.

        Raises:
            ConflictError: The same cause was acted on before, the model has an open trigger of this
                cause, or one whose retraining has not ended; names it.
        """
        try:
            with self._database.write() as connection:
                return open_trigger(connection, new)
        except IntegrityError:
            raise self._conflict(new) from None

    def _conflict(self, new: NewTrigger) -> ConflictError:
        for trigger in self.opened(new.model):
            if trigger.cause == new.cause or (trigger.retrains and new.retrains):
                return in_the_way(trigger)
        return ConflictError(f"'{new.model}' was triggered for this cause before.")

    def start(self, trigger_id: str, job_id: str) -> Trigger:
        """Note that a job retrains for it."""
        where = (triggers.c.id == trigger_id, triggers.c.closed.is_(None))
        statement = update(triggers).where(*where).values(state="retraining", job_id=job_id)
        with self._database.write() as connection:
            connection.execute(statement)
        return self.get(trigger_id)

    def close(
        self, trigger_id: str, state: TriggerState, evidence: Mapping[str, Any] | None = None
    ) -> Trigger:
        """End a trigger; what is known of it grows by `evidence`. The first end counts.

        Raises:
            NotFoundError: There is no such trigger.
        """
        with self._database.write() as connection:
            close_trigger(connection, trigger_id, state, evidence or {})
        return self.get(trigger_id)

    def get(self, trigger_id: str) -> Trigger:
        """The trigger.

        Raises:
            NotFoundError: There is none with that id.
        """
        found = self.find(trigger_id)
        if found is None:
            raise NotFoundError(f"There is no trigger '{trigger_id}'.", field="trigger_id")
        return found

    def find(self, trigger_id: str) -> Trigger | None:
        """The trigger, or None."""
        found = self._database.rows(select(triggers).where(triggers.c.id == trigger_id))
        return _trigger(found[0]) if found else None

    def by_key(self, model: str, cause_key: str) -> Trigger | None:
        """The trigger that answered for a cause."""
        where = (triggers.c.model == model, triggers.c.cause_key == cause_key)
        found = self._database.rows(select(triggers).where(*where))
        return _trigger(found[0]) if found else None

    def opened(self, model: str | None = None) -> list[Trigger]:
        """Those that are not closed, oldest first."""
        query = select(triggers).where(triggers.c.closed.is_(None)).order_by(triggers.c.id)
        if model is not None:
            query = query.where(triggers.c.model == model)
        return [_trigger(row) for row in self._database.rows(query)]

    def newest(self, model: str, *, retrains: bool = True) -> Trigger | None:
        """The model's newest trigger that retrains, or that does not."""
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
        """Triggers, newest first."""
        table = triggers.c
        wanted = {table.model: model, table.cause: cause, table.state: state}
        where = [column == value for column, value in wanted.items() if value is not None]
        where += [] if since is None else [table.time >= since]
        found = read_page(
            self._database, triggers, table.id, where=tuple(where), limit=limit, cursor=cursor
        )
        return ResultPage([_trigger(row) for row in found.items], found.next)

    def counts(self) -> list[tuple[str, str, int]]:
        """How many triggers there were: (model, cause, count)."""
        query = select(triggers.c.model, triggers.c.cause, func.count().label("n"))
        found = self._database.rows(query.group_by(triggers.c.model, triggers.c.cause))
        return [(row["model"], row["cause"], row["n"]) for row in found]


def open_trigger(connection: Connection, new: NewTrigger) -> Trigger:
    """Record a trigger within a transaction.

    Raises:
        IntegrityError: The same cause was acted on before or has an open trigger, or the model's
            last retraining has not ended.
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
    """End a trigger within a transaction; one that is closed already stays as it is."""
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
    """The trigger as trigger files and webhooks have it; times are ISO 8601, UTC."""
    document = {name: getattr(trigger, name) for name in _NAMES if name != "cause_key"}
    document["time"] = _iso(trigger.time)
    document["closed"] = None if trigger.closed is None else _iso(trigger.closed)
    found: dict[str, Any] = json_safe(document)
    return found


def in_the_way(trigger: Trigger) -> ConflictError:
    """Why another trigger cannot be opened beside this one."""
    return ConflictError(
        f"Trigger {trigger.id} of '{trigger.model}' ({trigger.cause}) is {trigger.state}.",
        remedy="Wait until it is closed, or dismiss it.",
    )


def _trigger(row: Mapping[Any, Any]) -> Trigger:
    return Trigger(**{name: row[name] for name in _NAMES})


def _iso(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))

"""Jobs: the rows are the truth, whatever the broker remembers.

    queued ──claim──> running ──> succeeded | failed | cancelled
      ^                  │
      └──── reap ────────┤  its worker fell silent
    waiting <─postpone───┘  a part it needs is down, or it is tried again later

`attempts` counts claims and is the fencing token: whoever writes to a running job names the attempt
it holds, and a worker that was thought dead and comes back finds that the job is no longer its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from sqlalchemy import and_, exists, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from tidemill.errors import ConflictError, NotFoundError
from tidemill.stores.database.database import Database, EpochNow
from tidemill.stores.database.ids import new_job_id
from tidemill.stores.database.pages import Page, plain, read_page
from tidemill.stores.database.tables import jobs

State = Literal["queued", "running", "waiting", "succeeded", "failed", "cancelled"]
FINAL: tuple[State, ...] = ("succeeded", "failed", "cancelled")
CLAIMABLE: tuple[State, ...] = ("queued", "waiting")
# A job that lost this many workers is more likely to be the cause than the victim.
MAX_ATTEMPTS = 50
# A parked job is looked at after this long even if nobody woke it.
PARKED_SECONDS = 3600.0
# A new row is rung for by whoever made it; after this many seconds idle workers look.
GRACE_SECONDS = 2.0
# Rung for and still not taken while a worker idles: the message was lost.
LOST_SECONDS = 4.0


@dataclass(frozen=True)
class NewJob:
    """What is asked for. Limits in seconds and bytes; `parent` is the job it is a part of, and
    `traceparent` names the span that its own are children of."""

    kind: str
    model: str | None = None
    project: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    time_limit: float | None = None
    memory_limit: int | None = None
    idempotency_key: str | None = None
    key_id: str | None = None
    request_id: str | None = None
    parent: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True)
class Job(NewJob):
    """One row. Times in seconds since the epoch, `percent` from 0 to 100."""

    id: str = ""
    state: State = "queued"
    percent: float = 0.0
    stage: str | None = None
    progress: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    created: float = 0.0
    updated: float = 0.0
    started: float | None = None
    finished: float | None = None
    not_before: float = 0.0
    sent: float | None = None
    attempts: int = 0
    failures: int = 0
    waits: int = 0
    worker: str | None = None
    heartbeat: float | None = None
    cancel_requested: bool = False

    @property
    def done(self) -> bool:
        return self.state in FINAL


_NAMES = tuple(f.name for f in fields(Job))


def _job(row: Mapping[Any, Any]) -> Job:
    return Job(**{name: row[name] for name in _NAMES})


def idempotency_conflict(holder: str) -> ConflictError:
    """An idempotency key was used before, for something else."""
    return ConflictError(
        f"The idempotency key belongs to {holder}, which asked for something else.",
        field="Idempotency-Key",
        remedy="Use a new key for each new request.",
    )


class Jobs:
    """The table of jobs in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(self, new: NewJob) -> tuple[Job, bool]:
        """Write the row; with an idempotency key seen before, give the job that it made.

        Returns:
            The job, and whether it is new.

        Raises:
            ConflictError: The idempotency key belongs to another request.
            UnavailableError: The database cannot be reached; nothing was accepted.
        """
        values = {f.name: getattr(new, f.name) for f in fields(NewJob)}
        values["params"] = plain(dict(new.params))
        now = EpochNow()
        statement = (
            insert(jobs)
            .values(
                **values, id=new_job_id(), state="queued", created=now, updated=now, not_before=now
            )
            .returning(jobs)
        )
        try:
            with self._database.write() as connection:
                return _job(connection.execute(statement).mappings().one()), True
        except IntegrityError:
            return self._earlier(new), False

    def _earlier(self, new: NewJob) -> Job:
        query = select(jobs).where(jobs.c.idempotency_key == new.idempotency_key)
        earlier = _job(self._database.rows(query)[0])
        asked = (new.kind, new.model, plain(dict(new.params)))
        if asked != (earlier.kind, earlier.model, earlier.params):
            raise idempotency_conflict(f"job {earlier.id}")
        return earlier

    def get(self, job_id: str) -> Job:
        """The job.

        Raises:
            NotFoundError: There is none with that id.
        """
        found = self._database.rows(select(jobs).where(jobs.c.id == job_id))
        if not found:
            raise NotFoundError(f"There is no job '{job_id}'.", field="job_id")
        return _job(found[0])

    def find(self, start: str) -> Job:
        """The one job whose id begins so; NotFoundError where it is not one."""
        query = select(jobs).where(jobs.c.id.startswith(start, autoescape=True)).limit(2)
        found = self._database.rows(query)
        if len(found) != 1:
            many = "More than one job's" if found else "No job's"
            raise NotFoundError(f"{many} id begins with '{start}'.", field="job_id")
        return _job(found[0])

    def parts(self, job_id: str) -> list[Job]:
        """The jobs that are parts of this one, in the order they were made."""
        query = select(jobs).where(jobs.c.parent == job_id).order_by(jobs.c.id)
        return [_job(row) for row in self._database.rows(query)]

    def park(self, job: Job, stage: str) -> Job | None:
        """Give the job back until its parts have ended; `wake` brings it back."""
        parked = EpochNow() + PARKED_SECONDS
        return self._change(
            _held(job), state="waiting", stage=stage, not_before=parked, worker=None, heartbeat=None
        )

    def wake(self) -> list[Job]:
        """Let go on what waits for its parts and has none left that has not ended."""
        part = jobs.alias()
        unfinished = exists().where(part.c.parent == jobs.c.id, part.c.state.not_in(FINAL))
        any_part = exists().where(part.c.parent == jobs.c.id)
        ready = and_(
            jobs.c.state == "waiting", jobs.c.not_before > EpochNow(), any_part, ~unfinished
        )
        with self._database.write() as connection:
            statement = (
                update(jobs)
                .where(jobs.c.state == "waiting", ready)
                .values(not_before=EpochNow())
                .returning(jobs)
            )
            rows = connection.execute(statement).mappings().all()
        return [_job(row) for row in rows]

    def show_parts(self, job_id: str, percent: float, progress: Mapping[str, Any]) -> None:
        """Show on a waiting job how far its parts are."""
        self._change(
            and_(jobs.c.id == job_id, jobs.c.state == "waiting"),
            percent=percent,
            progress=plain(dict(progress)),
        )

    def page(
        self,
        *,
        state: str | None = None,
        kind: str | None = None,
        model: str | None = None,
        parent: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Job]:
        """Jobs, newest first."""
        table = jobs.c
        wanted = {
            table.state: state,
            table.kind: kind,
            table.model: model,
            table.parent: parent,
        }
        where = tuple(column == value for column, value in wanted.items() if value is not None)
        found = read_page(self._database, jobs, jobs.c.id, where=where, limit=limit, cursor=cursor)
        return Page([_job(row) for row in found.items], found.next)

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        query = select(jobs.c.state, func.count().label("n")).group_by(jobs.c.state)
        return {row["state"]: row["n"] for row in self._database.rows(query)}

    def queue_age(self) -> float:
        """Seconds for which the job that is due and has waited longest has waited; 0 for none."""
        due = and_(jobs.c.state.in_(CLAIMABLE), jobs.c.not_before <= EpochNow())
        query = select((EpochNow() - func.min(jobs.c.not_before)).label("age")).where(due)
        age = self._database.rows(query)[0]["age"]
        return 0.0 if age is None else max(0.0, float(age))

    def claim(self, job_id: str, worker: str) -> Job | None:
        """Make the job this worker's, or None when it is taken, done or not due yet."""
        now = EpochNow()
        return self._change(
            and_(jobs.c.id == job_id, jobs.c.state.in_(CLAIMABLE), jobs.c.not_before <= EpochNow()),
            state="running",
            worker=worker,
            attempts=jobs.c.attempts + 1,
            started=func.coalesce(jobs.c.started, now),
            heartbeat=now,
            percent=0.0,
            stage="starting",
            progress=None,
            error=None,
        )

    def beat(
        self, job: Job, *, percent: float, stage: str, progress: Mapping[str, Any]
    ) -> Literal["go on", "cancel", "lost"]:
        """Say that the worker lives and how far it is; the answer says what to do."""
        held = self._change(
            _held(job),
            heartbeat=EpochNow(),
            percent=percent,
            stage=stage,
            progress=plain(dict(progress)),
        )
        if held is None:
            return "lost"
        return "cancel" if held.cancel_requested else "go on"

    def holds(self, job: Job) -> bool:
        """Whether this attempt is still the one that counts: asked before a lasting effect."""
        query = select(jobs.c.id).where(_held(job), jobs.c.cancel_requested.is_(False))
        return bool(self._database.rows(query))

    def succeed(self, job: Job, result: Mapping[str, Any]) -> Job | None:
        """Close the job with its result; None when this attempt no longer holds it."""
        return self._finish(
            job, "succeeded", result=plain(dict(result)), percent=100.0, stage="done"
        )

    def fail(self, job: Job, error: Mapping[str, Any]) -> Job | None:
        """Close the job with an error in the shape of problem+json."""
        return self._finish(job, "failed", error=plain(dict(error)))

    def cancelled(self, job: Job) -> Job | None:
        """Close a job whose work was stopped because somebody asked for it."""
        return self._finish(job, "cancelled", stage="cancelled")

    def postpone(
        self, job: Job, error: Mapping[str, Any], *, delay: float, counts: bool
    ) -> Job | None:
        """Give the job back, to be taken again after `delay` seconds.

        Args:
            counts: Whether this fault counts towards the job's limit of failures.
        """
        now = EpochNow()
        change: dict[str, Any] = {"failures": jobs.c.failures + 1} if counts else {}
        return self._change(
            _held(job),
            state="waiting",
            stage="waiting to be tried again",
            error=plain(dict(error)),
            not_before=now + delay,
            waits=jobs.c.waits + 1,
            worker=None,
            heartbeat=None,
            **change,
        )

    def cancel(self, job_id: str) -> Job:
        """Cancel a job that waits at once; ask the worker of one that runs to stop.

        Its parts are cancelled with it.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: It has already ended.
        """
        waiting = and_(jobs.c.id == job_id, jobs.c.state.in_(CLAIMABLE))
        for part in self.parts(job_id):
            if not part.done:
                with suppress(ConflictError):  # it ended just now
                    self.cancel(part.id)
        stopped = self._change(
            waiting,
            state="cancelled",
            stage="cancelled",
            cancel_requested=True,
            finished=EpochNow(),
        ) or self._change(
            and_(jobs.c.id == job_id, jobs.c.state == "running"), cancel_requested=True
        )
        if stopped is None:
            ended = self.get(job_id)
            if ended.state == "cancelled":
                return ended
            raise ConflictError(f"Job {job_id} has already {ended.state}.", field="job_id")
        return stopped

    def reap(self, lost_after: float) -> list[Job]:
        """Give back the jobs whose worker fell silent; end those that asked for it or lost many.

        Returns:
            The jobs that changed, in their new state.
        """
        lost = and_(jobs.c.state == "running", jobs.c.heartbeat < EpochNow() - lost_after)
        changed = []
        for row in self._database.rows(select(jobs).where(lost)):
            job = _job(row)
            still = and_(_held(job), lost)
            changed.append(self._change(still, **_afterlife(job)))
        return [job for job in changed if job is not None]

    def unheard(self, limit: int) -> list[Job]:
        """Jobs that are due and that no worker has heard of; they are marked as told of.

        Several workers may ask at once: each job is given to one of them.
        """
        now = EpochNow()
        unheard = and_(
            jobs.c.state.in_(CLAIMABLE),
            jobs.c.not_before <= now,
            or_(
                and_(jobs.c.sent.is_(None), jobs.c.updated < now - GRACE_SECONDS),
                jobs.c.sent < jobs.c.not_before,
                jobs.c.sent < now - LOST_SECONDS,
            ),
        )
        due = self._database.rows(
            select(jobs.c.id).where(unheard).order_by(jobs.c.not_before, jobs.c.id).limit(limit)
        )
        return [job for row in due for job in self._note_sent(jobs.c.id == row["id"], unheard)]

    def mark_sent(self, job_ids: Sequence[str]) -> None:
        """Note that the broker was told of the jobs."""
        self._note_sent(jobs.c.id.in_(job_ids))

    def _note_sent(self, *where: Any) -> list[Job]:
        with self._database.write() as connection:
            statement = update(jobs).where(*where).values(sent=EpochNow()).returning(jobs)
            return [_job(row) for row in connection.execute(statement).mappings()]

    def _finish(self, job: Job, state: State, **values: Any) -> Job | None:
        return self._change(_held(job), state=state, finished=EpochNow(), heartbeat=None, **values)

    def _change(self, where: Any, **values: Any) -> Job | None:
        statement = update(jobs).where(where).values(updated=EpochNow(), **values).returning(jobs)
        with self._database.write() as connection:
            row = connection.execute(statement).mappings().one_or_none()
        return None if row is None else _job(row)


def _held(job: Job) -> Any:
    return and_(jobs.c.id == job.id, jobs.c.state == "running", jobs.c.attempts == job.attempts)


def _afterlife(job: Job) -> dict[str, Any]:
    """What becomes of a job whose worker fell silent."""
    now = EpochNow()
    if job.cancel_requested:
        return {"state": "cancelled", "stage": "cancelled", "finished": now, "heartbeat": None}
    if job.attempts >= MAX_ATTEMPTS:
        error = {"title": "Lost", "status": 500, "detail": f"It lost {job.attempts} workers."}
        return {"state": "failed", "error": error, "finished": now, "heartbeat": None}
    return {
        "state": "queued",
        "stage": "its worker was lost; waiting for another",
        "not_before": now,
        "sent": None,
        "worker": None,
        "heartbeat": None,
    }

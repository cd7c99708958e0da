"""Jobs: the table is the truth, whatever the broker remembers.

    queued ──claim──────────> running ──> succeeded | failed | cancelled
      ^                          │
      └──── requeue_stalled ─────┤  its worker's heartbeat stopped
    waiting <── retry_later ─────┤  a service it needs is down, or it is retried after a failure
    waiting <─ wait_for_children ┘  its child jobs have to end first

A waiting job is claimed like a queued one, once its `not_before` has passed. `attempts` counts
claims and is the fencing token: every write to a running job names the attempt it belongs to, so a
worker that was thought dead and comes back cannot write to a job that was given to another.

See decision 050.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from sqlalchemy import and_, exists, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from tidemill.errors import ConflictError, NotFoundError
from tidemill.stores.database.database import Database, EpochNow, new_row_id
from tidemill.stores.database.queries import ResultPage, conditions, json_safe, read_page
from tidemill.stores.database.tables import jobs

State = Literal["queued", "running", "waiting", "succeeded", "failed", "cancelled"]
FINAL: tuple[State, ...] = ("succeeded", "failed", "cancelled")
CLAIMABLE: tuple[State, ...] = ("queued", "waiting")
# A job that lost this many workers is more likely to be the cause than the victim.
MAX_ATTEMPTS = 50
# A job that waits for its children runs again after this long even if nothing resumed it.
CHILDREN_CHECK_SECONDS = 3600.0
# The process that submits a job sends the message; after this many seconds it must have failed to.
UNSENT_SECONDS = 2.0
# A message sent this long ago while a worker is idle was lost.
UNCLAIMED_SECONDS = 4.0


@dataclass(frozen=True)
class NewJob:
    """A job to be submitted.

    Attributes:
        project: A project file, or gallery:NAME.
        time_limit, memory_limit: In seconds of running and bytes of resident memory.
        parent: The id of the job that this one is a child of.
        traceparent: The trace span that the job's own spans are children of (W3C Trace Context).
    """

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
    """A row of the table. Times are in seconds since the epoch, `percent` is from 0 to 100.

    Attributes:
        not_before: No worker claims the job earlier.
        sent: When the broker was last told of it; None if it never was.
        attempts: How often it was claimed; the fencing token.
        failures: How many failures counted towards its limit.
        waits: How often in a row it was given back to be retried.
    """

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


def idempotency_conflict(owner: str) -> ConflictError:
    """Return the error for an idempotency key that was used before for a different request.

    Args:
        owner: What the earlier request created, such as "job 17...".
    """
    return ConflictError(
        f"The idempotency key was used before, for {owner}, with a different request.",
        field="Idempotency-Key",
        remedy="Use a new key for each new request.",
    )


class Jobs:
    """The table of jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(self, new: NewJob) -> tuple[Job, bool]:
        """Insert a job, or find the one that an earlier request with its idempotency key created.

        Returns:
            The job, and whether it is new.

        Raises:
            ConflictError: The idempotency key was used for a different request.
            UnavailableError: The database cannot be reached; no job was created.
        """
        values = {f.name: getattr(new, f.name) for f in fields(NewJob)}
        values["params"] = json_safe(dict(new.params))
        now = EpochNow()
        statement = (
            insert(jobs)
            .values(
                **values, id=new_row_id(), state="queued", created=now, updated=now, not_before=now
            )
            .returning(jobs)
        )
        try:
            with self._database.write() as connection:
                return _job(connection.execute(statement).mappings().one()), True
        except IntegrityError:
            return self._existing(new), False

    def _existing(self, new: NewJob) -> Job:
        query = select(jobs).where(jobs.c.idempotency_key == new.idempotency_key)
        existing = _job(self._database.rows(query)[0])
        requested = (new.kind, new.model, json_safe(dict(new.params)))
        if requested != (existing.kind, existing.model, existing.params):
            raise idempotency_conflict(f"job {existing.id}")
        return existing

    def get(self, job_id: str) -> Job:
        """Return the job.

        Raises:
            NotFoundError: There is no job with that id.
        """
        found = self._database.rows(select(jobs).where(jobs.c.id == job_id))
        if not found:
            raise NotFoundError(f"There is no job '{job_id}'.", field="job_id")
        return _job(found[0])

    def find_by_prefix(self, prefix: str) -> Job:
        """Return the one job whose id starts with a prefix.

        Raises:
            NotFoundError: No id does, or several do.
        """
        query = select(jobs).where(jobs.c.id.startswith(prefix, autoescape=True)).limit(2)
        found = self._database.rows(query)
        if len(found) != 1:
            matches = "More than one job id starts" if found else "No job id starts"
            raise NotFoundError(f"{matches} with '{prefix}'.", field="job_id")
        return _job(found[0])

    def children(self, job_id: str) -> list[Job]:
        """Return the child jobs of this one, in the order they were submitted."""
        query = select(jobs).where(jobs.c.parent == job_id).order_by(jobs.c.id)
        return [_job(row) for row in self._database.rows(query)]

    def wait_for_children(self, job: Job, stage: str) -> Job | None:
        """Give the job back until its children have ended; `resume_parents` makes it due again."""
        return self._change(
            _current_attempt(job),
            state="waiting",
            stage=stage,
            not_before=EpochNow() + CHILDREN_CHECK_SECONDS,
            worker=None,
            heartbeat=None,
        )

    def resume_parents(self) -> list[Job]:
        """Make jobs due that waited for their children and whose children have all ended."""
        child = jobs.alias()
        has_child = exists().where(child.c.parent == jobs.c.id)
        unfinished = exists().where(child.c.parent == jobs.c.id, child.c.state.not_in(FINAL))
        ready = and_(
            jobs.c.state == "waiting", jobs.c.not_before > EpochNow(), has_child, ~unfinished
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

    def show_children(self, job_id: str, percent: float, progress: Mapping[str, Any]) -> None:
        """Write the progress of its children to a waiting job."""
        self._change(
            and_(jobs.c.id == job_id, jobs.c.state == "waiting"),
            percent=percent,
            progress=json_safe(dict(progress)),
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
    ) -> ResultPage[Job]:
        """Return a page of jobs, newest first."""
        table = jobs.c
        where = conditions(
            {table.state: state, table.kind: kind, table.model: model, table.parent: parent}
        )
        found = read_page(self._database, jobs, jobs.c.id, where=where, limit=limit, cursor=cursor)
        return ResultPage([_job(row) for row in found.items], found.next)

    def counts(self) -> dict[str, int]:
        """Return the number of jobs in each state."""
        query = select(jobs.c.state, func.count().label("n")).group_by(jobs.c.state)
        return {row["state"]: row["n"] for row in self._database.rows(query)}

    def queue_age(self) -> float:
        """Return the seconds that the longest-waiting due job has waited; 0 if none is due."""
        due = and_(jobs.c.state.in_(CLAIMABLE), jobs.c.not_before <= EpochNow())
        query = select((EpochNow() - func.min(jobs.c.not_before)).label("age")).where(due)
        age = self._database.rows(query)[0]["age"]
        return 0.0 if age is None else max(0.0, float(age))

    def claim(self, job_id: str, worker: str) -> Job | None:
        """Claim the job for a worker; None if it is claimed already, finished or not due yet."""
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

    def heartbeat(
        self, job: Job, *, percent: float, stage: str, progress: Mapping[str, Any]
    ) -> Literal["continue", "cancel", "lost"]:
        """Record that the worker is alive and the job's progress.

        Returns:
            "cancel" if the job is to stop, "lost" if this attempt no longer counts.
        """
        row = self._change(
            _current_attempt(job),
            heartbeat=EpochNow(),
            percent=percent,
            stage=stage,
            progress=json_safe(dict(progress)),
        )
        if row is None:
            return "lost"
        return "cancel" if row.cancel_requested else "continue"

    def is_current(self, job: Job) -> bool:
        """Whether this attempt still counts; checked before what cannot be undone."""
        query = select(jobs.c.id).where(_current_attempt(job), jobs.c.cancel_requested.is_(False))
        return bool(self._database.rows(query))

    def succeed(self, job: Job, result: Mapping[str, Any]) -> Job | None:
        """Finish the job with its result; None if this attempt no longer counts."""
        return self._finish(
            job, "succeeded", result=json_safe(dict(result)), percent=100.0, stage="done"
        )

    def fail(self, job: Job, error: Mapping[str, Any]) -> Job | None:
        """Finish the job with an error in the shape of problem+json."""
        return self._finish(job, "failed", error=json_safe(dict(error)))

    def mark_cancelled(self, job: Job) -> Job | None:
        """Finish a running job whose process was stopped on a cancel request."""
        return self._finish(job, "cancelled", stage="cancelled")

    def retry_later(
        self, job: Job, error: Mapping[str, Any], *, delay: float, counts: bool
    ) -> Job | None:
        """Give the job back, to be retried after `delay` seconds.

        Args:
            counts: Whether the error counts towards the job's limit of failures.
        """
        now = EpochNow()
        change: dict[str, Any] = {"failures": jobs.c.failures + 1} if counts else {}
        return self._change(
            _current_attempt(job),
            state="waiting",
            stage="waiting to be retried",
            error=json_safe(dict(error)),
            not_before=now + delay,
            waits=jobs.c.waits + 1,
            worker=None,
            heartbeat=None,
            **change,
        )

    def cancel(self, job_id: str) -> Job:
        """Cancel a waiting job at once; request the worker of a running one to stop it.

        Its children are cancelled with it.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: It has already ended.
        """
        waiting = and_(jobs.c.id == job_id, jobs.c.state.in_(CLAIMABLE))
        for child in self.children(job_id):
            if not child.done:
                with suppress(ConflictError):  # it has just ended
                    self.cancel(child.id)
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

    def requeue_stalled(self, stalled_after: float) -> list[Job]:
        """Queue running jobs again that sent no heartbeat for `stalled_after` seconds.

        Those with a cancel request are cancelled; those that lost MAX_ATTEMPTS workers fail.

        Returns:
            The jobs that changed, in their new state.
        """
        stalled = and_(jobs.c.state == "running", jobs.c.heartbeat < EpochNow() - stalled_after)
        changed = []
        for row in self._database.rows(select(jobs).where(stalled)):
            job = _job(row)
            still_stalled = and_(_current_attempt(job), stalled)
            changed.append(self._change(still_stalled, **_after_stall(job)))
        return [job for job in changed if job is not None]

    def fetch_overdue(self, limit: int) -> list[Job]:
        """Return due jobs whose message was lost or never sent, and mark them as sent.

        Several workers may call this at once: each job is returned to one of them.
        """
        now = EpochNow()
        overdue = and_(
            jobs.c.state.in_(CLAIMABLE),
            jobs.c.not_before <= now,
            or_(
                and_(jobs.c.sent.is_(None), jobs.c.updated < now - UNSENT_SECONDS),
                jobs.c.sent < jobs.c.not_before,
                jobs.c.sent < now - UNCLAIMED_SECONDS,
            ),
        )
        due = self._database.rows(
            select(jobs.c.id).where(overdue).order_by(jobs.c.not_before, jobs.c.id).limit(limit)
        )
        return [job for row in due for job in self._set_sent(jobs.c.id == row["id"], overdue)]

    def mark_sent(self, job_ids: Sequence[str]) -> None:
        """Record that the broker was told of the jobs."""
        self._set_sent(jobs.c.id.in_(job_ids))

    def _set_sent(self, *where: Any) -> list[Job]:
        with self._database.write() as connection:
            statement = update(jobs).where(*where).values(sent=EpochNow()).returning(jobs)
            return [_job(row) for row in connection.execute(statement).mappings()]

    def _finish(self, job: Job, state: State, **values: Any) -> Job | None:
        return self._change(
            _current_attempt(job), state=state, finished=EpochNow(), heartbeat=None, **values
        )

    def _change(self, where: Any, **values: Any) -> Job | None:
        statement = update(jobs).where(where).values(updated=EpochNow(), **values).returning(jobs)
        with self._database.write() as connection:
            row = connection.execute(statement).mappings().one_or_none()
        return None if row is None else _job(row)


def _current_attempt(job: Job) -> Any:
    return and_(jobs.c.id == job.id, jobs.c.state == "running", jobs.c.attempts == job.attempts)


def _after_stall(job: Job) -> dict[str, Any]:
    """Return the new values of a job whose worker's heartbeat stopped."""
    now = EpochNow()
    if job.cancel_requested:
        return {"state": "cancelled", "stage": "cancelled", "finished": now, "heartbeat": None}
    if job.attempts >= MAX_ATTEMPTS:
        error = {"title": "Lost", "status": 500, "detail": f"It lost {job.attempts} workers."}
        return {"state": "failed", "error": error, "finished": now, "heartbeat": None}
    return {
        "state": "queued",
        "stage": "its worker was lost; waiting to be retried",
        "not_before": now,
        "sent": None,
        "worker": None,
        "heartbeat": None,
    }

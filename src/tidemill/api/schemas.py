"""Queries and responses that several routes share. Times are ISO 8601 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from tidemill.border import MAX_INTEGER
from tidemill.stores.database.queries import MAX_LIMIT
from tidemill.stores.jobs.jobs import Job

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Maximum number of items.")]
Cursor = Annotated[
    str | None,
    Query(
        max_length=2_000,
        description="`next` of the previous page.",
    ),
]
Since = Annotated[datetime | None, Query(description="Only items from this time on.")]
Until = Annotated[datetime | None, Query(description="Only items before this time.")]
Filter = Annotated[str | None, Query(max_length=255)]
RowId = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
Name = Annotated[str, Field(min_length=1, max_length=255)]
VersionText = Annotated[str, Field(max_length=255)] | int
#: A model, version, job or other id in a path: no table has a longer one.
PathText = Annotated[str, Path(max_length=255)]


class PageQuery(BaseModel):
    """The query of a list; routes add their filters as fields."""

    limit: Limit = 50
    cursor: Cursor = None

    def filters(self) -> dict[str, Any]:
        """The fields as stores take them: times are seconds since the epoch."""
        return {
            name: to_epoch(value) if isinstance(value, datetime) else value for name, value in self
        }


class Listing(BaseModel, Generic[T]):
    """One page, newest first."""

    items: list[T]
    next: str | None = Field(
        default=None,
        description="Pass this as `cursor` to get the next page; null on the last one.",
    )


class Problem(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    field: str | None = None
    expected: str | None = None
    remedy: str | None = None


class JobAccepted(BaseModel):
    """A stored job. It runs even if the server that accepted it fails."""

    job_id: str
    status: str
    status_url: str
    events_url: str


class JobView(BaseModel):
    """One job. `progress` is between 0 and 1."""

    job_id: str
    kind: str
    model: str | None
    parent: str | None = Field(description="The job of which this is a part")
    status: str = Field(description="queued, running, waiting, succeeded, failed or cancelled")
    progress: float
    stage: str | None
    details: dict[str, Any] | None = Field(description="Candidate, trial and best metric so far")
    metrics: dict[str, Any] | None = Field(
        description="Metrics of the registered version, once the job has succeeded"
    )
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    params: dict[str, Any]
    attempts: int
    cancel_requested: bool
    created: datetime
    updated: datetime
    started: datetime | None
    finished: datetime | None
    next_try: datetime | None = Field(description="When a waiting job is retried")


def job_view(job: Job) -> JobView:
    """The job as a response."""
    result = dict(job.result) if job.result is not None else None
    return JobView(
        job_id=job.id,
        kind=job.kind,
        model=job.model,
        parent=job.parent,
        status=job.state,
        progress=round(job.percent / 100, 4),
        stage=job.stage,
        details=dict(job.progress) if job.progress is not None else None,
        metrics=(result or {}).get("metrics"),
        result=result,
        error=dict(job.error) if job.error is not None else None,
        params=dict(job.params),
        attempts=job.attempts,
        cancel_requested=job.cancel_requested,
        created=to_datetime(job.created),
        updated=to_datetime(job.updated),
        started=None if job.started is None else to_datetime(job.started),
        finished=None if job.finished is None else to_datetime(job.finished),
        next_try=to_datetime(job.not_before) if job.state == "waiting" else None,
    )


def to_datetime(seconds: float) -> datetime:
    """Seconds since the epoch as a UTC time."""
    return datetime.fromtimestamp(seconds, UTC)


def to_epoch(value: datetime | None) -> float | None:
    """A time as seconds since the epoch; without a time zone it is UTC."""
    if value is None:
        return None
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


def with_datetimes(row: dict[str, Any], *names: str) -> dict[str, Any]:
    """The row with the named fields converted from seconds to times."""
    return {
        name: to_datetime(value) if name in names and value is not None else value
        for name, value in row.items()
    }

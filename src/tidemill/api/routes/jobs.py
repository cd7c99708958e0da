"""List, get, follow and cancel jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from tidemill.api.dependencies import KeyHolder, PlatformDep, Trainer
from tidemill.api.schemas import Filter, JobView, Listing, PageQuery, PathText, job_view
from tidemill.errors import UnavailableError
from tidemill.platform import Platform
from tidemill.stores.jobs.jobs import Job, State

router = APIRouter(tags=["jobs"])

POLL_SECONDS = 0.5
# Polls without a change between comments, which keep proxies from closing an idle stream.
COMMENT_EVERY = 30


class JobQuery(PageQuery):
    """Filters of jobs."""

    state: State | None = None
    kind: Filter = None
    model: Filter = None
    parent: Filter = None


@router.get("/jobs")
def list_jobs(
    _: KeyHolder, platform: PlatformDep, query: Annotated[JobQuery, Query()]
) -> Listing[JobView]:
    """List jobs, newest first."""
    page = platform.jobs.page(**query.filters())
    return Listing(items=[job_view(job) for job in page.items], next=page.next)


@router.get("/jobs/{job_id}")
def get_job(job_id: PathText, _: KeyHolder, platform: PlatformDep) -> JobView:
    """Get one job."""
    return job_view(platform.jobs.get(job_id))


@router.post("/jobs/{job_id}/cancel", status_code=202)
def cancel_job(job_id: PathText, _: Trainer, platform: PlatformDep) -> JobView:
    """Cancel a job: at once if it has not started, within seconds if it is running."""
    return job_view(platform.jobs.cancel(job_id))


@router.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Server-sent events"}},
)
def job_events(
    job_id: PathText, request: Request, _: KeyHolder, platform: PlatformDep
) -> StreamingResponse:
    """Stream a job: a `progress` event at every change, and an `end` event when it has ended."""
    return StreamingResponse(
        _events(platform, platform.jobs.get(job_id), request),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(platform: Platform, job: Job, request: Request) -> AsyncIterator[str]:
    yield _event(job)
    unchanged = 0
    while not job.done and not await request.is_disconnected():
        await asyncio.sleep(POLL_SECONDS)
        try:
            now = await run_in_threadpool(platform.jobs.get, job.id)
        except UnavailableError:
            now = job
        unchanged = 0 if now != job else unchanged + 1
        if now != job:
            job = now
            yield _event(job)
        elif unchanged % COMMENT_EVERY == 0:
            yield ": still here\n\n"


def _event(job: Job) -> str:
    kind: Literal["end", "progress"] = "end" if job.done else "progress"
    return f"event: {kind}\ndata: {job_view(job).model_dump_json()}\n\n"

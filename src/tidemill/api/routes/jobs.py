"""Jobs: listed, looked at, watched as they go, cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from tidemill.api.access import KeyHolder, Trainer
from tidemill.api.schemas import Cursor, Filter, JobView, Limit, Listing, job_view
from tidemill.api.state import platform_of
from tidemill.errors import UnavailableError
from tidemill.platform import Platform
from tidemill.stores.jobs.jobs import Job, State

router = APIRouter(tags=["jobs"])

ThePlatform = Annotated[Platform, Depends(platform_of)]
LOOK_SECONDS = 0.5
# A comment now and then keeps proxies from closing a stream in which nothing happens.
COMMENT_EVERY = 30


@router.get("/jobs")
def list_jobs(
    _: KeyHolder,
    platform: ThePlatform,
    state: State | None = None,
    kind: Filter = None,
    model: Filter = None,
    parent: Filter = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Listing[JobView]:
    """Jobs, newest first."""
    page = platform.jobs.page(
        state=state, kind=kind, model=model, parent=parent, limit=limit, cursor=cursor
    )
    return Listing(items=[job_view(job) for job in page.items], next=page.next)


@router.get("/jobs/{job_id}")
def get_job(job_id: str, _: KeyHolder, platform: ThePlatform) -> JobView:
    """One job."""
    return job_view(platform.jobs.get(job_id))


@router.post("/jobs/{job_id}/cancel", status_code=202)
def cancel_job(job_id: str, _: Trainer, platform: ThePlatform) -> JobView:
    """Cancel a job: at once while it waits, within seconds while it runs."""
    return job_view(platform.jobs.cancel(job_id))


@router.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Server-sent events"}},
)
def job_events(
    job_id: str, request: Request, _: KeyHolder, platform: ThePlatform
) -> StreamingResponse:
    """The job whenever it changes, as `progress` events, and once more as `end`."""
    return StreamingResponse(
        _events(platform, platform.jobs.get(job_id), request),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(platform: Platform, job: Job, request: Request) -> AsyncIterator[str]:
    yield _event(job)
    quiet = 0
    while not job.done and not await request.is_disconnected():
        await asyncio.sleep(LOOK_SECONDS)
        try:
            now = await run_in_threadpool(platform.jobs.get, job.id)
        except UnavailableError:
            now = job
        quiet = 0 if now != job else quiet + 1
        if now != job:
            job = now
            yield _event(job)
        elif quiet % COMMENT_EVERY == 0:
            yield ": still here\n\n"


def _event(job: Job) -> str:
    kind: Literal["end", "progress"] = "end" if job.done else "progress"
    return f"event: {kind}\ndata: {job_view(job).model_dump_json()}\n\n"

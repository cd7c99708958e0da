"""Background jobs: list them, show one with its log, cancel it or submit it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from starlette.responses import Response

from tidemill.console import queries
from tidemill.console.log_files import lines_of_job
from tidemill.console.page_request import PageRequest
from tidemill.console.responses import redirect, show_page
from tidemill.errors import ConflictError
from tidemill.stores.jobs.jobs import Job, NewJob

STATES = ("queued", "running", "waiting", "succeeded", "failed", "cancelled")
KINDS = ("train", "retrain", "trial")
LINES = 200
#: The fields that a job submitted again takes over.
REPEATED = frozenset({"kind", "model", "project", "params", "time_limit", "memory_limit"})


def jobs(request: PageRequest) -> Response:
    """The list, newest first, without the trials of other jobs unless that kind is chosen."""
    query = request.query
    page = request.context.platform.jobs.page(
        state=query.get("state"),
        kind=query.get("kind"),
        model=query.get("model"),
        limit=50,
        cursor=query.get("cursor"),
    )
    shown = [job for job in page.items if job.parent is None or query.get("kind") == "trial"]
    return show_page(
        request,
        "jobs.html",
        {
            "jobs": shown,
            "next": page.next,
            "query": query,
            "states": STATES,
            "kinds": KINDS,
            "counts": request.context.platform.jobs.counts(),
            "names": sorted(queries.projects(request).value or {}),
        },
    )


def job(request: PageRequest) -> Response:
    """One job."""
    platform = request.context.platform
    found = platform.jobs.get(request.path_params["id"])
    result: Mapping[str, Any] = found.result or {}
    return show_page(
        request,
        "job.html",
        {
            "job": found,
            "parts": platform.jobs.children(found.id),
            "result": result,
            "run": queries.run_link(request, result.get("run_id")),
            "lines": lines_of_job(platform.settings.logs, found.id, LINES),
            "settings": settings_of(found),
        },
    )


def settings_of(job: Job) -> list[tuple[str, Any]]:
    """The job's parameters as flat pairs, such as `logistic.C` and 0.5."""
    params = job.params
    flat = [
        (f"{candidate}.{name}", value)
        for candidate, given in (params.get("overrides") or {}).items()
        for name, value in given.items()
    ]
    rest = [(k, v) for k, v in params.items() if k != "overrides" and v not in (None, [], {})]
    return rest + flat


def cancel(request: PageRequest) -> Response:
    """Cancel a job: at once if it has not started, within seconds if it is running."""
    request.context.platform.jobs.cancel(request.path_params["id"])
    return redirect(
        request, f"/console/jobs/{request.path_params['id']}", "The job is being cancelled."
    )


def submit_again(request: PageRequest) -> Response:
    """Submit the same work as a new job.

    Raises:
        ConflictError: The job has not ended, or is part of another job.
    """
    platform = request.context.platform
    found = platform.jobs.get(request.path_params["id"])
    if not found.done or found.parent is not None:
        raise ConflictError(
            "Only a job that has ended, and is not part of another, can be run again."
        )
    same = {f.name: getattr(found, f.name) for f in fields(NewJob) if f.name in REPEATED}
    again = NewJob(**same, key_id=request.user.key_id, request_id=request.request_id)
    new, _ = platform.submit(again)
    return redirect(request, f"/console/jobs/{new.id}", f"This repeats job {found.id[:12]}.")

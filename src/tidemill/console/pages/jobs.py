"""Background work: what runs, how far it is, what it said, and stopping or repeating it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tidemill.console import queries
from tidemill.console.log_files import lines_of_job
from tidemill.console.page_request import Go, PageRequest, View
from tidemill.errors import ConflictError
from tidemill.stores.jobs.jobs import Job, NewJob

STATES = ("queued", "running", "waiting", "succeeded", "failed", "cancelled")
KINDS = ("train", "retrain", "trial")
LINES = 200
#: What a repeated job takes over from the first.
REPEATED = frozenset({"kind", "model", "project", "params", "time_limit", "memory_limit"})


def jobs(request: PageRequest) -> View:
    """The list, newest first; parts of other jobs are left out unless asked for."""
    query = request.query
    page = request.context.platform.jobs.page(
        state=query.get("state"),
        kind=query.get("kind"),
        model=query.get("model"),
        limit=50,
        cursor=query.get("cursor"),
    )
    shown = [job for job in page.items if job.parent is None or query.get("kind") == "trial"]
    return View(
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


def job(request: PageRequest) -> View:
    """One job."""
    platform = request.context.platform
    found = platform.jobs.get(request.path["id"])
    result: Mapping[str, Any] = found.result or {}
    return View(
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
    """What was asked for, flat: `logistic.C`, 0.5."""
    params = job.params
    flat = [
        (f"{candidate}.{name}", value)
        for candidate, given in (params.get("overrides") or {}).items()
        for name, value in given.items()
    ]
    rest = [(k, v) for k, v in params.items() if k != "overrides" and v not in (None, [], {})]
    return rest + flat


def cancel(request: PageRequest) -> Go:
    """Stop a job: at once while it waits, within seconds while it runs."""
    request.context.platform.jobs.cancel(request.path["id"])
    return Go(f"/console/jobs/{request.path['id']}", "The job is being cancelled.")


def submit_again(request: PageRequest) -> Go:
    """Ask for the same once more, as a new job.

    Raises:
        ConflictError: The job has not ended, or is a part of another.
    """
    platform = request.context.platform
    found = platform.jobs.get(request.path["id"])
    if not found.done or found.parent is not None:
        raise ConflictError("Only a whole job that has ended can be repeated.")
    same = {f.name: getattr(found, f.name) for f in fields(NewJob) if f.name in REPEATED}
    again = NewJob(**same, key_id=request.user.key_id, request_id=request.request_id)
    made, _ = platform.submit(again)
    return Go(f"/console/jobs/{made.id}", f"This repeats job {found.id[:12]}.")

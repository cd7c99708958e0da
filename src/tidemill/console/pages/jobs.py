"""Background work: what runs, how far it is, what it said, and stopping or repeating it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tidemill.console import queries as facts
from tidemill.console.log_files import lines_of_job
from tidemill.console.page_request import Go, View, Visit
from tidemill.errors import ConflictError
from tidemill.stores.jobs.jobs import Job, NewJob

STATES = ("queued", "running", "waiting", "succeeded", "failed", "cancelled")
KINDS = ("train", "retrain", "trial")
LINES = 200
#: What a repeated job takes over from the first.
REPEATED = frozenset({"kind", "model", "project", "params", "time_limit", "memory_limit"})


def jobs(visit: Visit) -> View:
    """The list, newest first; parts of other jobs are left out unless asked for."""
    query = visit.query
    page = visit.desk.platform.jobs.page(
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
            "counts": visit.desk.platform.jobs.counts(),
            "names": sorted(facts.projects(visit).value or {}),
        },
    )


def job(visit: Visit) -> View:
    """One job."""
    platform = visit.desk.platform
    found = platform.jobs.get(visit.path["id"])
    result: Mapping[str, Any] = found.result or {}
    return View(
        "job.html",
        {
            "job": found,
            "parts": platform.jobs.parts(found.id),
            "result": result,
            "run": facts.run_link(visit, result.get("run_id")),
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


def cancel(visit: Visit) -> Go:
    """Stop a job: at once while it waits, within seconds while it runs."""
    visit.desk.platform.jobs.cancel(visit.path["id"])
    return Go(f"/console/jobs/{visit.path['id']}", "The job is being cancelled.")


def repeat(visit: Visit) -> Go:
    """Ask for the same once more, as a new job.

    Raises:
        ConflictError: The job has not ended, or is a part of another.
    """
    platform = visit.desk.platform
    found = platform.jobs.get(visit.path["id"])
    if not found.done or found.parent is not None:
        raise ConflictError("Only a whole job that has ended can be repeated.")
    same = {f.name: getattr(found, f.name) for f in fields(NewJob) if f.name in REPEATED}
    again = NewJob(**same, key_id=visit.visitor.key_id, request_id=visit.request_id)
    made, _ = platform.submit(again)
    return Go(f"/console/jobs/{made.id}", f"This repeats job {found.id[:12]}.")

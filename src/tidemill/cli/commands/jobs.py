"""`tidemill jobs`: list background work, follow it with bars, cancel it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.progress import BarColumn, Progress, TextColumn

from tidemill.cli import command_help, terminal
from tidemill.cli.commands.operate import platform_of
from tidemill.cli.context import HomeOption, JsonOption, open_settings
from tidemill.errors import UnavailableError

if TYPE_CHECKING:
    from tidemill.platform import Platform
    from tidemill.stores.jobs.jobs import Job

LOOK_SECONDS = 0.5
SHOWN_ID = 16  # enough to name a job by; all of it is in --json
COLOURS = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}

JOBS_KEYS = (
    "id, kind, model, state, percent, stage, progress, result, error, parent, attempts, created"
)


def register(app: typer.Typer) -> None:
    command_help.add(
        app,
        jobs,
        command_help.OPERATE,
        keys=JOBS_KEYS,
        many=True,
    )
    command_help.add(app, cancel, command_help.OPERATE, keys="id, state")


def jobs(
    job_id: Annotated[
        str | None, typer.Argument(help="One job with its parts. [default: the newest]")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow them with bars until they end.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="Only jobs of this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many.")] = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List background jobs, newest first, or follow them as they go.

    Watching ends by itself when nothing that is shown is left to do; Ctrl-C ends only the watching.

    Examples:

      tidemill jobs

      tidemill jobs --watch

      tidemill jobs 0193f2c4 --watch
    """
    with platform_of(open_settings(home)) as platform:

        def look() -> list[Job]:
            return _wanted(platform, job_id, model, limit)

        if as_json:
            terminal.print_json([_shown(job) for job in look()])
        elif watch:
            _watch(look)
        else:
            _print(look())


def cancel(
    job_id: Annotated[str, typer.Argument(help="The job's id, or how it begins.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel a job: at once while it waits, within seconds while it runs.

    Examples:

      tidemill cancel 0193f2c4
    """
    with platform_of(open_settings(home)) as platform:
        job = platform.jobs.cancel(platform.jobs.find_by_prefix(job_id).id)
    if as_json:
        terminal.print_json({"id": job.id, "state": job.state})
        return
    done = "is cancelled" if job.done else "was asked to stop"
    terminal.out.print(f"Job {job.id} {done}.", markup=False)


def _wanted(platform: Platform, job_id: str | None, model: str | None, limit: int) -> list[Job]:
    if job_id is not None:
        job = platform.jobs.find_by_prefix(job_id)
        return [job, *platform.jobs.children(job.id)]
    return platform.jobs.page(model=model, limit=limit).items


def _watch(look: Callable[[], list[Job]]) -> None:
    from rich.live import Live

    found = look()
    with Live(console=terminal.out, auto_refresh=False) as live:
        while True:
            live.update(_drawn(found), refresh=True)
            if all(job.done for job in found):
                return
            time.sleep(LOOK_SECONDS)
            try:
                found = look()
            except UnavailableError as error:
                terminal.err.print(str(error), markup=False)


def _drawn(found: list[Job]) -> RenderableType:
    bars = Progress(
        TextColumn("{task.fields[id]}"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("[{task.fields[colour]}]{task.fields[state]}[/]"),
        TextColumn("{task.fields[how]}", markup=False),
    )
    for job in found:
        bars.add_task(
            f"{'  ' * (job.parent is not None)}{job.kind} {job.model or ''}",
            total=100,
            completed=round(job.percent),
            id=job.id[:SHOWN_ID],
            state=job.state,
            colour=COLOURS.get(job.state, "default"),
            how=describe(job),
        )
    return Group(bars) if found else "No jobs yet."


def describe(job: Job) -> str:
    """What is worth saying of a job in a few words: its stage and its best metric, or its error."""
    if job.error is not None and job.state in ("failed", "waiting"):
        return str(job.error.get("detail", ""))[:100]
    progress = dict(job.progress or {})
    words = [] if job.done or job.stage is None else [job.stage]
    if progress.get("trials"):
        words.append(f"trial {progress.get('trial', 0)} of {progress['trials']}")
    if progress.get("best") is not None:
        words.append(f"best {progress.get('metric', 'metric')} {progress['best']:.4f}")
    if job.result is not None and "version" in job.result:
        words.append(f"version {job.result['version']}")
    return ", ".join(words)


def _print(found: list[Job]) -> None:
    rows = [
        [
            job.id[:SHOWN_ID],
            job.kind,
            job.model,
            job.state,
            f"{job.percent:.0f}%",
            _day(job),
            describe(job),
        ]
        for job in found
    ]
    terminal.print_table(["id", "kind", "model", "state", "done", "made", "what"], rows)


def _day(job: Job) -> str:
    return datetime.fromtimestamp(job.created, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _shown(job: Job) -> dict[str, object]:
    names = ("id", "kind", "model", "state", "percent", "stage", "progress", "result", "error")
    return {name: getattr(job, name) for name in (*names, "parent", "attempts", "created")}

"""`tidemill jobs`: list background jobs, or follow their progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn

from tidemill.cli import terminal
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import HomeOption, JsonOption, open_settings
from tidemill.cli.control_plane import open_platform
from tidemill.errors import UnavailableError
from tidemill.platform import Platform
from tidemill.stores.jobs.jobs import Job

POLL_SECONDS = 0.5
SHOWN_ID = 16  # characters; enough to name a job by, and --json prints all of them
COLOURS = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}
FIELDS = (
    "id", "kind", "model", "state", "percent", "stage", "progress", "result", "error", "parent",
    "attempts", "created",
)  # fmt: skip
app = command_app()


@app.command(epilog=notes(", ".join(FIELDS), many=True))
def jobs(
    job_id: Annotated[
        str | None, typer.Argument(help="One job with its parts. [default: the newest jobs]")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow them with progress bars until they end.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="Only jobs of this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Number of jobs.")] = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List background jobs, newest first, or follow their progress.

    --watch exits when every job shown has ended; Ctrl-C stops watching, not the jobs.

    Examples:

      tidemill jobs

      tidemill jobs --watch

      tidemill jobs 0193f2c4 --watch
    """
    with open_platform(open_settings(home)) as platform:

        def read() -> list[Job]:
            return _read_jobs(platform, job_id, model, limit)

        if as_json:
            terminal.print_json([{name: getattr(job, name) for name in FIELDS} for job in read()])
        elif watch:
            _watch(read)
        else:
            _print(read())


def _read_jobs(platform: Platform, job_id: str | None, model: str | None, limit: int) -> list[Job]:
    if job_id is not None:
        job = platform.jobs.find_by_prefix(job_id)
        return [job, *platform.jobs.children(job.id)]
    return platform.jobs.page(model=model, limit=limit).items


def _watch(read: Callable[[], list[Job]]) -> None:
    found = read()
    with Live(console=terminal.out, auto_refresh=False) as live:
        while True:
            live.update(_progress_bars(found), refresh=True)
            if all(job.done for job in found):
                return
            time.sleep(POLL_SECONDS)
            try:
                found = read()
            except UnavailableError as error:
                terminal.err.print(str(error), markup=False)


def _progress_bars(found: list[Job]) -> RenderableType:
    bars = Progress(
        TextColumn("{task.fields[id]}"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("[{task.fields[colour]}]{task.fields[state]}[/]"),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    for job in found:
        bars.add_task(
            f"{'  ' * (job.parent is not None)}{job.kind} {job.model or ''}",
            total=100,
            completed=round(job.percent),
            id=job.id[:SHOWN_ID],
            state=job.state,
            colour=COLOURS.get(job.state, "default"),
            detail=describe(job),
        )
    return Group(bars) if found else "No jobs yet."


def describe(job: Job) -> str:
    """A job's stage, trial and best metric in a few words, or its error."""
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
            _created(job),
            describe(job),
        ]
        for job in found
    ]
    terminal.print_table(["id", "kind", "model", "state", "done", "created", "detail"], rows)


def _created(job: Job) -> str:
    return datetime.fromtimestamp(job.created, UTC).strftime("%Y-%m-%d %H:%M:%S")

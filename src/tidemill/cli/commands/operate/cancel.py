"""`tidemill cancel`: cancel a background job."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli import terminal
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import HomeOption, JsonOption, open_settings
from tidemill.cli.control_plane import open_platform

app = command_app()


@app.command(epilog=notes("id, state"))
def cancel(
    job_id: Annotated[str, typer.Argument(help="The job's id, or its first characters.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel a job: at once if it has not started, within seconds if it is running.

    Examples:

      tidemill cancel 0193f2c4
    """
    with open_platform(open_settings(home)) as platform:
        job = platform.jobs.cancel(platform.jobs.find_by_prefix(job_id).id)
    if as_json:
        terminal.print_json({"id": job.id, "state": job.state})
        return
    text = "is cancelled" if job.done else "is being cancelled"
    terminal.out.print(f"Job {job.id} {text}.", markup=False)

"""`tidemill retrain`: retrain a model on request."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli import terminal
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import HomeOption, JsonOption, open_settings
from tidemill.cli.control_plane import open_platform
from tidemill.stores.monitoring.triggers import NewTrigger

app = command_app()


@app.command(epilog=notes("trigger, job"))
def retrain(
    model: Annotated[str, typer.Argument(help="The registered model.")],
    reason: Annotated[
        str, typer.Option(help="Reason, recorded with the trigger.")
    ] = "manual retraining",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Retrain a model: open a trigger, for which a worker trains new versions.

    They are trained on labelled predictions too, and compete with the champion on labelled live
    rows; without such rows, the best new version goes to the gate. `tidemill jobs --watch` follows
    the job.

    Examples:

      tidemill retrain churn

      tidemill retrain churn --reason "new tariffs since May"
    """
    with open_platform(open_settings(home)) as platform:
        request = NewTrigger(model, "manual", reason, actor="cli")
        trigger = platform.watcher.trigger_actions.request(request)
    if as_json:
        terminal.print_json({"trigger": trigger.id, "job": trigger.job_id})
        return
    text = f"Opened trigger {trigger.id}; job {trigger.job_id} retrains {model}."
    terminal.out.print(text, markup=False, soft_wrap=True)
    terminal.out.print("Follow it with `tidemill jobs --watch`.", markup=False)

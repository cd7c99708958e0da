"""`tidemill retrain`: ask for a retraining by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli import command_help, terminal
from tidemill.cli.commands.operate import platform_of
from tidemill.cli.context import HomeOption, JsonOption, open_settings


def register(app: typer.Typer) -> None:
    command_help.add(app, retrain, command_help.WATCH, keys="trigger, job")


def retrain(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "asked for by hand",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Open a trigger by hand: a worker trains the model again, on labelled predictions too.

    The new versions compete with the champion on labelled rows; without any, the new version goes
    to the gate. `tidemill jobs --watch` follows it.

    Examples:

      tidemill retrain churn

      tidemill retrain churn --reason "new tariffs since May"
    """
    from tidemill.stores.monitoring.triggers import NewTrigger

    with platform_of(open_settings(home)) as platform:
        asked = NewTrigger(model, "manual", reason, actor="cli")
        trigger = platform.watcher.consequences.ask(asked)
    if as_json:
        terminal.print_json({"trigger": trigger.id, "job": trigger.job_id})
        return
    text = f"Trigger {trigger.id} is open; job {trigger.job_id} retrains {model}."
    terminal.out.print(text, markup=False, soft_wrap=True)
    terminal.out.print("Follow it with `tidemill jobs --watch`.", markup=False)

"""`tidemill watch`: check models for drift and decay, and act on what is found."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tidemill.cli import terminal
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import HomeOption, JsonOption, TrackingOption, open_settings, start_logs
from tidemill.cli.control_plane import open_platform
from tidemill.loop.monitoring.watcher import WatchResult
from tidemill.loop.operations.signals import stop_event
from tidemill.platform import Platform
from tidemill.policies import seconds
from tidemill.worker import watch as watch_process

WATCH_KEYS = (
    "model, version, checked_now, drift, live, estimate, time, checked, metric, state, basis, "
    "summary, alarms, why, scores"
)
app = command_app()


@app.command(epilog=notes(WATCH_KEYS, many=True))
def watch(
    models: Annotated[
        list[str] | None, typer.Argument(help="The models to check. [default: all]")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Check once, then exit.")] = False,
    now: Annotated[
        bool,
        typer.Option("--now", help="With --once: check the newest rows even if no check is due."),
    ] = False,
    every: Annotated[
        str | None,
        typer.Option(help="Interval between checks: 30s, 5m. [default: TIDEMILL_WATCH_EVERY]"),
    ] = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare live predictions and labels with training, and act as each project's policy says.

    A check is due when enough predictions or labels have arrived since the last one. Drift is
    reported; a model that has degraded is retrained, unless its project says otherwise.
    `tidemill up` runs this too.

    Examples:

      tidemill watch --once

      tidemill watch churn --once --now

      tidemill watch --every 30s
    """
    interval = None if every is None else seconds(every, "every")
    settings = open_settings(home, tracking_uri)
    start_logs(settings, "watch", console=not once)
    if once:
        with open_platform(settings) as platform:
            _show(_check(platform, models or [], now), as_json)
        return
    terminal.err.print("Watching. Ctrl-C stops it.")
    with stop_event() as stop:
        watch_process.watch(settings, stop, models or [], interval)


def _check(platform: Platform, models: list[str], now: bool) -> list[WatchResult]:
    watcher = platform.watcher
    if now or models:
        return [watcher.check(name, forced=now) for name in models or watcher.models()]
    return watcher.check_all()


def _show(ticks: list[WatchResult], as_json: bool) -> None:
    if as_json:
        shown: list[dict[str, Any]] = [
            {"model": t.model, "version": t.version, "checked_now": t.checked, **t.verdict}
            for t in ticks
        ]
        terminal.print_json(shown)
        return
    if not ticks:
        terminal.out.print("No champion has received a prediction request yet.")
    for tick in ticks:
        terminal.out.print(f"{tick.model} v{tick.version}: {tick.verdict['state']}", markup=False)
        terminal.out.print(f"  {tick.verdict['summary']}", markup=False)
        terminal.out.print(f"  {tick.why}", markup=False)
        for trigger in tick.opened:
            terminal.out.print(f"  trigger {trigger.id} ({trigger.cause})", markup=False)

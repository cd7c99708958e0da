"""Commands that watch: look at models, and show what was found as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidemill.cli import command_help, terminal
from tidemill.cli.commands.operate import platform_of
from tidemill.cli.context import HomeOption, JsonOption, TrackingOption, open_settings, start_logs
from tidemill.loop.operations.signals import stop_event

if TYPE_CHECKING:
    from tidemill.loop.monitoring.watcher import WatchResult
    from tidemill.platform import Platform

Models = Annotated[list[str] | None, typer.Argument(help="Which models. [default: all]")]

WATCH_KEYS = (
    "model, version, checked_now, drift, live, estimate, time, checked, metric, state, basis, "
    "summary, alarms, why, scores"
)


def register(app: typer.Typer) -> None:
    command_help.add(
        app,
        watch,
        command_help.WATCH,
        keys=WATCH_KEYS,
        many=True,
    )
    command_help.add(app, report, command_help.WATCH, keys="model, files")


def watch(
    models: Models = None,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    now: Annotated[
        bool, typer.Option("--now", help="With --once: check the newest rows, due or not.")
    ] = False,
    every: Annotated[
        str | None, typer.Option(help="Between two looks: 30s, 5m. [default: TIDEMILL_WATCH_EVERY]")
    ] = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare what models are asked and answer with training, and act as their projects say.

    A check is due when enough predictions, or labels, came since the last. Moved data is reported;
    a model that got worse is retrained, unless its project says otherwise. `tidemill up` runs this
    by itself.

    Examples:

      tidemill watch --once

      tidemill watch churn --once --now

      tidemill watch --every 30s
    """
    from tidemill.policies import seconds

    pause = None if every is None else seconds(every, "every")
    settings = open_settings(home, tracking_uri)
    start_logs(settings, "watch", console=not once)
    if once:
        with platform_of(settings) as platform:
            _show(_look(platform, models or [], now), as_json)
        return
    from tidemill.worker.watch import watch as watch_on

    terminal.err.print("Watching. Ctrl-C ends it.")
    with stop_event() as stop:
        watch_on(settings, stop, models or [], pause)


def _look(platform: Platform, models: list[str], now: bool) -> list[WatchResult]:
    if now or models:
        return [platform.watcher.tick(name, by_hand=now) for name in models or _all(platform)]
    return platform.watcher.sweep()


def _all(platform: Platform) -> list[str]:
    return platform.watcher.models()


def _show(ticks: list[WatchResult], as_json: bool) -> None:
    if as_json:
        shown: list[dict[str, Any]] = [
            {"model": t.model, "version": t.version, "checked_now": t.checked, **t.verdict}
            for t in ticks
        ]
        terminal.print_json(shown)
        return
    if not ticks:
        terminal.out.print("No model with a champion was asked anything yet.")
    for tick in ticks:
        terminal.out.print(f"{tick.model} v{tick.version}: {tick.verdict['state']}", markup=False)
        terminal.out.print(f"  {tick.verdict['summary']}", markup=False)
        terminal.out.print(f"  {tick.why}", markup=False)
        for trigger in tick.opened:
            terminal.out.print(f"  trigger {trigger.id} ({trigger.cause})", markup=False)


def report(
    model: Annotated[str, typer.Argument(help="The registered model.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write.")] = Path(
        "report.html"
    ),
    window: Annotated[
        int | None, typer.Option(help="A row of /monitoring/drift. [default: the last window]")
    ] = None,
    evidently: Annotated[
        bool,
        typer.Option("--evidently", help="Let Evidently draw its report of the same window too."),
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write what is known of a model as one page: what moved, how good it is, what was decided.

    Examples:

      tidemill report churn -o churn.html

      tidemill report churn -o churn.html --evidently
    """
    from tidemill.loop.monitoring.report import write_report

    settings = open_settings(home)
    with platform_of(settings) as platform:
        paths = [write_report(platform.watching, platform.triggers, model, output, window)]
        if evidently:
            from tidemill.loop.monitoring.evidently import write_evidently

            paths.append(
                write_evidently(platform.watcher, platform.watching, model, output, window)
            )
    if as_json:
        terminal.print_json({"model": model, "files": paths})
        return
    for path in paths:
        terminal.out.print(f"Wrote {path}.", markup=False)

"""The command that lets a challenger see traffic."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli import command_help, terminal
from tidemill.cli.commands.operate import platform_of
from tidemill.cli.context import HomeOption, JsonOption, TrackingOption, open_settings, start_logs
from tidemill.errors import RequestError
from tidemill.serving.shelf.traffic_rules import Mode


def register(app: typer.Typer) -> None:
    command_help.add(app, challenge, command_help.SERVE, keys="model, version, mode, share")


def challenge(
    model: Annotated[str, typer.Argument(help="The registered model.")],
    version: Annotated[
        str | None, typer.Option(help="Make this version challenger. [default: the one that is]")
    ] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Let it answer a copy of all requests, unseen.")
    ] = False,
    canary: Annotated[
        float | None, typer.Option(help="Let it answer this share of the callers.")
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Let it see no traffic.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why, for the audit log.")] = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a model's challenger answer beside its champion, or in its place for some callers.

    A canary that is slower, or right less often, than the project's `Challenge` policy allows is
    taken out of the traffic by itself.

    Examples:

      tidemill challenge churn --version 4 --shadow

      tidemill challenge churn --canary 0.1

      tidemill challenge churn --off
    """
    from tidemill.loop.promotion.challenge import challenge as set_challenge

    mode, share = _wish(shadow, canary, off)
    settings = open_settings(home, tracking_uri)
    start_logs(settings, "promote")
    with platform_of(settings) as platform:
        done = set_challenge(
            platform.registry, settings.shelf, model, mode=mode, share=share, version=version,
            reason=reason, actor="cli", audit=platform.audit.append,
        )  # fmt: skip
    if as_json:
        fact = {"model": model, "version": done.version, "mode": mode, "share": share}
        terminal.print_json(fact)
        return
    what = {
        "off": "no challenger sees traffic now",
        "shadow": f"version {done.version} answers in the champion's shadow",
        "canary": f"version {done.version} answers {share:.0%} of the callers",
    }[mode]
    terminal.out.print(f"{model}: {what}.", markup=False)


def _wish(shadow: bool, canary: float | None, off: bool) -> tuple[Mode, float]:
    if [shadow, canary is not None, off].count(True) != 1:
        raise RequestError(
            "Say what the challenger is to see.",
            field="mode",
            expected="one of --shadow, --canary SHARE, --off",
        )
    if canary is not None:
        return "canary", canary
    return ("shadow", 1.0) if shadow else ("off", 0.0)

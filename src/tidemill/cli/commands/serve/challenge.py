"""`tidemill challenge`: send a challenger a copy or a share of a model's traffic."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli import terminal
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import HomeOption, JsonOption, TrackingOption, open_settings, start_logs
from tidemill.cli.control_plane import open_platform
from tidemill.errors import RequestError
from tidemill.loop.promotion import challenge as operation
from tidemill.serving.shelf.traffic_rules import Mode

app = command_app()


@app.command(epilog=notes("model, version, mode, share"))
def challenge(
    model: Annotated[str, typer.Argument(help="The registered model.")],
    version: Annotated[
        str | None,
        typer.Option(help="Make this version challenger. [default: the current challenger]"),
    ] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Shadow: a copy of all requests, answers discarded.")
    ] = False,
    canary: Annotated[
        float | None, typer.Option(help="Canary: answer this share of the callers, 0 to 1.")
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Send the challenger no traffic.")] = False,
    reason: Annotated[str | None, typer.Option(help="Reason, for the audit log.")] = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a model's challenger as a shadow of its champion, or as a canary.

    A canary that is slower or less accurate than the project's `Challenge` policy allows is taken
    out of the traffic automatically.

    Examples:

      tidemill challenge churn --version 4 --shadow

      tidemill challenge churn --canary 0.1

      tidemill challenge churn --off
    """
    mode, share = _parse_mode(shadow, canary, off)
    settings = open_settings(home, tracking_uri)
    start_logs(settings, "promote")
    with open_platform(settings) as platform:
        done = operation.challenge(
            platform.registry, settings.shelf, model, mode=mode, share=share, version=version,
            reason=reason, actor="cli", audit=platform.audit.append,
        )  # fmt: skip
    if as_json:
        terminal.print_json({"model": model, "version": done.version, "mode": mode, "share": share})
        return
    text = {
        "off": "no challenger receives traffic now",
        "shadow": f"version {done.version} runs as a shadow of the champion",
        "canary": f"version {done.version} answers {share:.0%} of the callers",
    }[mode]
    terminal.out.print(f"{model}: {text}.", markup=False)


def _parse_mode(shadow: bool, canary: float | None, off: bool) -> tuple[Mode, float]:
    if [shadow, canary is not None, off].count(True) != 1:
        raise RequestError(
            "Choose exactly one mode for the challenger.",
            field="mode",
            expected="one of --shadow, --canary SHARE, --off",
        )
    if canary is not None:
        return "canary", canary
    return ("shadow", 1.0) if shadow else ("off", 0.0)

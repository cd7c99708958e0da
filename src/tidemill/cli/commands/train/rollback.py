"""`tidemill rollback`: make the previous champion champion again."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from tidemill.cli import terminal
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import HomeOption, JsonOption, TrackingOption, open_settings, start_logs
from tidemill.cli.control_plane import open_platform, open_registry
from tidemill.loop.promotion import transitions
from tidemill.loop.promotion.transitions import Transition

FIELDS = ("model", "version", "replaced", "reason")
app = command_app()


@app.command(epilog=notes(", ".join(FIELDS)))
def rollback(
    name: Annotated[str, typer.Argument(help="The registered model.")],
    reason: Annotated[str, typer.Option(help="Reason, for the audit log.")] = "manual rollback",
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Roll back to the previous champion.

    Examples:

      tidemill rollback churn --reason "wrong for new customers"
    """
    settings = open_settings(home, tracking_uri)
    start_logs(settings, "promote")
    with open_platform(settings) as platform:
        moved = transitions.rollback(
            open_registry(settings),
            name,
            reason=reason,
            actor="cli",
            audit=platform.audit_transition,
        )
    if as_json:
        terminal.print_json({field: getattr(moved, field) for field in FIELDS})
        return
    terminal.out.print(f"{escape(name)}: {_describe(moved)}")


def _describe(moved: Transition) -> str:
    replaced = f" instead of version {moved.replaced}" if moved.replaced else ""
    return f"version {moved.version} is champion{replaced} ({moved.reason})."

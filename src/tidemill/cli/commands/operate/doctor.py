"""`tidemill doctor`: check every part of the installation."""

from __future__ import annotations

from dataclasses import asdict

import typer

from tidemill.cli import terminal
from tidemill.cli.command_help import Exit, command_app, notes
from tidemill.cli.context import HomeOption, JsonOption, TrackingOption, open_settings
from tidemill.loop.operations.doctor import run_checks

COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}
app = command_app()


@app.command(epilog=notes("part, state, detail, remedy", many=True))
def doctor(
    home: HomeOption = None, tracking_uri: TrackingOption = None, as_json: JsonOption = False
) -> None:
    """Check every part, and say what is wrong and how to fix it; exit 1 if there is an error.

    Examples:

      tidemill doctor

      tidemill doctor --json
    """
    findings = run_checks(open_settings(home, tracking_uri))
    if as_json:
        terminal.print_json([asdict(finding) for finding in findings])
    else:
        for found in findings:
            colour = COLOURS[found.state]
            terminal.out.print(f"[{colour}]{found.state:8}[/] {found.part:12} ", end="")
            terminal.out.print(found.detail, markup=False)
            if found.remedy:
                terminal.out.print(f"{'':21} next: {found.remedy}", markup=False)
    if any(found.state == "error" for found in findings):
        raise typer.Exit(Exit.FAILED)

"""`tidemill audit`: list the audit log and verify that nobody changed it."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli import terminal
from tidemill.cli.command_help import Exit, command_app, notes
from tidemill.cli.context import HomeOption, JsonOption, open_settings
from tidemill.cli.control_plane import open_platform

FIELDS = ("action", "subject", "version", "actor", "reason")
LIST_KEYS = "seq, time, actor, action, subject, version, origin, reason, details, previous, hash"
app = command_app(help="List the audit log, and verify that nobody changed it.")


@app.command("list", epilog=notes(LIST_KEYS, many=True))
def list_audit(
    limit: Annotated[int, typer.Option(min=1, max=500, help="Number of entries.")] = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List who changed what, newest first.

    Examples:

      tidemill audit list

      tidemill audit list --limit 100 --json
    """
    with open_platform(open_settings(home)) as platform:
        entries = platform.audit.page(limit=limit).items
    if as_json:
        terminal.print_json(entries)
        return
    rows = [
        [terminal.format_time(entry["time"]), *(entry[name] for name in FIELDS)]
        for entry in entries
    ]
    terminal.print_table(["time", *FIELDS], rows)


@app.command(epilog=notes("intact, rows, row, problem, note"))
def verify(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Recompute the hash chain; exit 1 and name the row if it is broken.

    Examples:

      tidemill audit verify
    """
    with open_platform(open_settings(home)) as platform:
        verdict = platform.audit.verify()
    if as_json:
        terminal.print_json(verdict)
    elif verdict.intact:
        text = f"Intact: {verdict.rows} rows. {verdict.note or ''}"
        terminal.out.print(text.strip(), markup=False)
    else:
        terminal.err.print(f"[red]Broken:[/] {verdict.problem}")
    if not verdict.intact:
        raise typer.Exit(Exit.FAILED)

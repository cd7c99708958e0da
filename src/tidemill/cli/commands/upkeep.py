"""Commands for operators: doctor, migrate, backup and restore, the audit log."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli import command_help, terminal
from tidemill.cli.commands.operate import day, platform_of
from tidemill.cli.context import HomeOption, JsonOption, TrackingOption, open_settings

if TYPE_CHECKING:
    from tidemill.loop.operations.backup import BackupManifest

COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}
StoreOption = Annotated[
    str | None, typer.Option(help="The database behind MLflow's server, where one is used.")
]
audit = typer.Typer(help="Read the audit log, and verify that nobody changed it.")


def register(app: typer.Typer) -> None:
    keys = "part, state, detail, remedy"
    command_help.add(app, doctor, command_help.OPERATE, keys=keys, many=True)
    command_help.add(app, migrate, command_help.OPERATE, keys="before, after")
    command_help.add(app, backup, command_help.OPERATE, keys="file, rows, files")
    command_help.add(app, restore, command_help.OPERATE, keys="file, created, rows, files")
    app.add_typer(audit, name="audit", rich_help_panel=command_help.OPERATE)
    keys = "seq, time, actor, action, subject, version, origin, reason, details, previous, hash"
    command_help.add(audit, list_audit, name="list", keys=keys, many=True)
    command_help.add(audit, verify, name="verify", keys="intact, rows, row, problem, note")


def doctor(
    home: HomeOption = None, tracking_uri: TrackingOption = None, as_json: JsonOption = False
) -> None:
    """Look at every part, and say what is wrong and how to mend it; exit 1 for an error.

    Examples:

      tidemill doctor

      tidemill doctor --json
    """
    from tidemill.loop.operations.doctor import run_checks

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
        raise typer.Exit(command_help.Exit.FAILED)


def migrate(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Bring Tidemill's own database to this version's schema.

    Examples:

      TIDEMILL_DATABASE_URL=postgresql+psycopg://db/tidemill tidemill migrate
    """
    from tidemill.stores.database.database import Database
    from tidemill.stores.database.schema import migrate as move

    settings = open_settings(home)
    settings.home.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database_uri)
    try:
        before, after = move(database)
    finally:
        database.close()
    if as_json:
        terminal.print_json({"before": before, "after": after})
        return
    what = "was up to date already" if before == after else f"went from {before or 'empty'}"
    terminal.out.print(f"The database {what}; it is at {after}.", markup=False)


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    mlflow_store: StoreOption = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write databases, MLflow's metadata and artifacts into one file.

    Examples:

      tidemill backup monday.tar
    """
    from tidemill.loop.operations.backup import backup as write

    with terminal.err.status(f"Writing {file} ..."):
        contents = write(open_settings(home, tracking_uri), file, mlflow_store=mlflow_store)
    rows = _rows(contents)
    if as_json:
        terminal.print_json({"file": file, "rows": rows, "files": len(contents.files)})
        return
    terminal.out.print(f"Wrote {file}: {rows} rows, {len(contents.files)} files.", markup=False)


def restore(
    file: Annotated[Path, typer.Argument(help="A backup.", exists=True, dir_okay=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why, for the audit log.")] = None,
    mlflow_store: StoreOption = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put back what a backup holds; stop servers and workers of this home first.

    Examples:

      tidemill restore monday.tar --home /srv/tidemill
    """
    from tidemill.loop.operations.backup import restore as read

    settings = open_settings(home, tracking_uri)
    with terminal.err.status(f"Reading {file} ..."):
        contents = read(
            settings, file, actor="cli", force=force, mlflow_store=mlflow_store, reason=reason
        )
    if as_json:
        counts = {"rows": _rows(contents), "files": len(contents.files)}
        terminal.print_json({"file": file, "created": contents.created, **counts})
        return
    terminal.out.print(f"Restored the state of {day(contents.created)} UTC.", markup=False)


def _rows(contents: BackupManifest) -> int:
    return sum(sum(tables.values()) for tables in contents.rows.values())


def list_audit(
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many, newest first.")] = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who changed what, newest first.

    Examples:

      tidemill audit list

      tidemill audit list --limit 100 --json
    """
    with platform_of(open_settings(home)) as platform:
        rows = platform.audit.page(limit=limit).items
    if as_json:
        terminal.print_json(rows)
        return
    fields = ("action", "subject", "version", "actor", "reason")
    shown = [[day(row["time"]), *(row[name] for name in fields)] for row in rows]
    terminal.print_table(["time", *fields], shown)


def verify(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Recompute the chain of hashes; exit 1 if it is broken, with the row.

    Examples:

      tidemill audit verify
    """
    with platform_of(open_settings(home)) as platform:
        verdict = platform.audit.verify()
    if as_json:
        terminal.print_json(verdict)
    elif verdict.intact:
        words = f"Intact: {verdict.rows} rows. {verdict.note or ''}"
        terminal.out.print(words.strip(), markup=False)
    else:
        terminal.err.print(f"[red]Broken:[/] {verdict.problem}")
    if not verdict.intact:
        raise typer.Exit(command_help.Exit.FAILED)

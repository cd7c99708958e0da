"""`tidemill migrate`: upgrade the schema of Tidemill's own database."""

from __future__ import annotations

from contextlib import closing

from tidemill.cli import terminal
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import HomeOption, JsonOption, open_settings
from tidemill.stores.database import schema
from tidemill.stores.database.database import Database

app = command_app()


@app.command(epilog=notes("before, after"))
def migrate(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Upgrade Tidemill's own database to this version's schema.

    Examples:

      TIDEMILL_DATABASE_URL=postgresql+psycopg://db/tidemill tidemill migrate
    """
    settings = open_settings(home)
    settings.make_home()
    with closing(Database(settings.database_uri)) as database:
        before, after = schema.migrate(database)
    if as_json:
        terminal.print_json({"before": before, "after": after})
    elif before == after:
        terminal.out.print(f"The database is already at schema {after}.", markup=False)
    else:
        terminal.out.print(
            f"Upgraded the database from {before or 'empty'} to schema {after}.", markup=False
        )

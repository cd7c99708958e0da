"""`tidemill keys`: create, list and revoke API keys."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from tidemill.cli import terminal
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import HomeOption, JsonOption, open_settings
from tidemill.cli.control_plane import open_platform
from tidemill.errors import InputError

UNITS = {"m": 60, "h": 3600, "d": 86400}
app = command_app(help="Create, list and revoke API keys.", no_args_is_help=True)


@app.command(epilog=notes("key, id, scopes"))
def create(
    scope: Annotated[
        str, typer.Option(help="Scopes, separated by commas: predict, train, promote, admin.")
    ] = "predict",
    name: Annotated[str, typer.Option(help="Who or what the key is for.")] = "",
    expires: Annotated[
        str | None, typer.Option(help="Lifetime: 90m, 12h, 30d. [default: never expires]")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create an API key and print it.

    The key is shown only once: the server stores nothing but its hash.

    Examples:

      tidemill keys create

      tidemill keys create --scope predict,train --name nightly --expires 90d
    """
    lifetime = None if expires is None else parse_lifetime(expires)
    with open_platform(open_settings(home)) as platform:
        scopes = tuple(part.strip() for part in scope.split(",") if part.strip())
        token, record = platform.keys.create(scopes, actor="cli", name=name, lifetime=lifetime)
    if as_json:
        terminal.print_json({"key": token, "id": record.id, "scopes": record.scopes})
        return
    typer.echo(token)
    terminal.err.print(
        f"Key {record.id} has the scopes: {', '.join(record.scopes)}. It is not shown again."
    )


@app.command("list", epilog=notes("id, name, scopes, created, expires", many=True))
def list_keys(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the keys with their ids, scopes and expiry dates; never the keys themselves.

    Examples:

      tidemill keys list

      tidemill keys list --json
    """
    with open_platform(open_settings(home)) as platform:
        records = platform.keys.list()
    if as_json:
        fields = ("id", "name", "scopes", "created", "expires")
        terminal.print_json([{name: getattr(r, name) for name in fields} for r in records])
        return
    rows = [
        [
            record.id,
            record.name,
            ", ".join(record.scopes),
            terminal.format_time(record.created),
            terminal.format_time(record.expires),
        ]
        for record in records
    ]
    terminal.print_table(["id", "name", "scopes", "created", "expires"], rows)


@app.command(epilog=notes("id, revoked"))
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")],
    reason: Annotated[str | None, typer.Option(help="Reason, for the audit log.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key; running servers refuse it within two seconds.

    Examples:

      tidemill keys revoke 3fb0c2d1 --reason "its owner left"
    """
    with open_platform(open_settings(home)) as platform:
        record = platform.keys.revoke(key_id, actor="cli", reason=reason)
    if as_json:
        terminal.print_json({"id": record.id, "revoked": True})
        return
    terminal.out.print(f"Key {record.id} is revoked.")


def parse_lifetime(text: str) -> float:
    """The seconds in a duration such as 90m, 12h or 30d.

    Raises:
        InputError: The text is not a duration.
    """
    match = re.fullmatch(r"(\d+)([mhd])", text.strip())
    if match is None:
        raise InputError(f"'{text}' is not a duration.", field="expires", expected="90m, 12h, 30d")
    return float(match[1]) * UNITS[match[2]]

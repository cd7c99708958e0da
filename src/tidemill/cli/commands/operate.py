"""Commands for operators: keys and the audit log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli import command_help, terminal
from tidemill.cli.context import HomeOption, JsonOption, open_settings
from tidemill.errors import InputError

if TYPE_CHECKING:
    from tidemill.platform import Platform
    from tidemill.settings import Settings

UNITS = {"m": 60, "h": 3600, "d": 86400}
keys = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(keys, name="keys", rich_help_panel=command_help.OPERATE)
    command_help.add(keys, create, name="create", keys="key, id, scopes")
    shown = "id, name, scopes, created, expires"
    command_help.add(keys, list_keys, name="list", keys=shown, many=True)
    command_help.add(keys, revoke, name="revoke", keys="id, revoked")


@contextmanager
def platform_of(settings: Settings) -> Iterator[Platform]:
    """The control plane's stores, closed at the end."""
    from tidemill.platform import Platform

    platform = Platform.open(settings)
    try:
        yield platform
    finally:
        platform.close()


def create(
    scope: Annotated[
        str, typer.Option(help="What the key may do: some of predict,train,promote,admin.")
    ] = "predict",
    name: Annotated[str, typer.Option(help="Who or what it is for.")] = "",
    expires: Annotated[
        str | None, typer.Option(help="When it ends by itself: 90m, 12h, 30d. [default: never]")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key. It is shown once and stored nowhere; the server keeps a hash.

    Examples:

      tidemill keys create

      tidemill keys create --scope predict,train --name nightly --expires 90d
    """
    lifetime = None if expires is None else seconds(expires)
    with platform_of(open_settings(home)) as platform:
        scopes = tuple(part.strip() for part in scope.split(",") if part.strip())
        token, record = platform.keys.create(scopes, actor="cli", name=name, lifetime=lifetime)
    if as_json:
        terminal.print_json({"key": token, "id": record.id, "scopes": record.scopes})
        return
    typer.echo(token)
    terminal.err.print(f"Key {record.id} may: {', '.join(record.scopes)}. It is not shown again.")


def list_keys(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the keys: ids, scopes and expiry, never the keys themselves.

    Examples:

      tidemill keys list

      tidemill keys list --json
    """
    with platform_of(open_settings(home)) as platform:
        records = platform.keys.list()
    if as_json:
        held = [(r.id, r.name, r.scopes, r.created, r.expires) for r in records]
        fields = ("id", "name", "scopes", "created", "expires")
        terminal.print_json([dict(zip(fields, row, strict=True)) for row in held])
        return
    rows = [[r.id, r.name, ", ".join(r.scopes), day(r.created), day(r.expires)] for r in records]
    terminal.print_table(["id", "name", "scopes", "made", "expires"], rows)


def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")],
    reason: Annotated[str | None, typer.Option(help="Why, for the audit log.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a key away; running servers refuse it within two seconds.

    Examples:

      tidemill keys revoke 3fb0c2d1 --reason "its owner left"
    """
    with platform_of(open_settings(home)) as platform:
        record = platform.keys.revoke(key_id, actor="cli", reason=reason)
    if as_json:
        terminal.print_json({"id": record.id, "revoked": True})
        return
    terminal.out.print(f"Key {record.id} is revoked.")


def seconds(text: str) -> float:
    """A duration such as 90m, 12h or 30d, in seconds.

    Raises:
        InputError: It is not one.
    """
    match = re.fullmatch(r"(\d+)([mhd])", text.strip())
    if match is None:
        raise InputError(f"'{text}' is not a duration.", field="expires", expected="90m, 12h, 30d")
    return float(match[1]) * UNITS[match[2]]


def day(moment: float | None) -> str | None:
    """A moment in seconds since the epoch, as a person reads it."""
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")

"""A command group that imports a command's module only when that command is needed.

Some commands import pandas, MLflow or Celery, which takes seconds. `tidemill --help` and shell
completion of command names must not wait for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, ClassVar, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class Panel(NamedTuple):
    """A group of commands in `--help`, and the folder of their modules in `cli/commands`."""

    title: str
    folder: str


class CommandEntry(NamedTuple):
    """A command as the list of commands shows it."""

    name: str
    panel: Panel
    summary: str


class LazyCommand(TyperCommand):
    """Stands in for a command until it is run, completed, or asked for its help."""

    def __init__(self, entry: CommandEntry) -> None:
        super().__init__(entry.name, help=entry.summary, rich_help_panel=entry.panel.title)
        self._module = f"tidemill.cli.commands.{entry.panel.folder}.{entry.name}"

    def load(self) -> Any:
        """Import the command's module and build the command from the `app` in it."""
        app: typer.Typer = import_module(self._module).app
        command = typer.main.get_command(app)
        command.name = self.name
        command.rich_help_panel = self.rich_help_panel  # type: ignore[attr-defined]
        return command

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """The context of the real command: it parses the arguments and prints its own help."""
        return self.load().make_context(info_name, args, parent, **extra)


class LazyGroup(TyperGroup):
    """The commands of `entries`, each imported at its first use."""

    entries: ClassVar[Sequence[CommandEntry]] = ()

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {entry.name: LazyCommand(entry) for entry in self.entries}

    def load_all(self) -> None:
        """Replace every stand-in by its command, for tools that walk through all of them."""
        self.commands = {entry.name: LazyCommand(entry).load() for entry in self.entries}

"""What the help of every command ends with: its exit codes and the keys of its `--json` output.

Programs rely on both: changing them breaks users.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import typer


class Exit(IntEnum):
    """The exit codes of commands."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    GATE = 3
    INTERRUPTED = 130


MEANINGS = {
    Exit.DONE: "done",
    Exit.FAILED: "refused or failed, or a check found a problem",
    Exit.USAGE: "wrong usage",
    Exit.GATE: "the gate refused the promotion",
    Exit.INTERRUPTED: "stopped by Ctrl-C",
}


def command_app(**options: object) -> typer.Typer:
    """A Typer application for the module of one command."""
    return typer.Typer(add_completion=False, rich_markup_mode="markdown", **options)  # type: ignore[arg-type]


def notes(keys: str = "", *, many: bool = False, gated: bool = False) -> str:
    """The last lines of a command's help.

    Args:
        keys: The keys of the object that `--json` prints; "" for a command without `--json`.
        many: Whether `--json` prints a list of such objects.
        gated: Whether the command may exit with `Exit.GATE`.
    """
    codes = [code for code in Exit if gated or code is not Exit.GATE]
    printed = f"--json prints {'a list of objects' if many else 'an object'}: {keys}."
    return "\n\n".join([*([printed] if keys else []), exit_note(codes)])


def exit_note(codes: Sequence[Exit] = tuple(Exit)) -> str:
    """The exit codes and their meanings as one line."""
    return f"Exit codes: {'; '.join(f'{code.value} {MEANINGS[code]}' for code in codes)}."

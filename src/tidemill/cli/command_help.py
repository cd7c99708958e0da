"""How commands are put before people: the loop's groups, exit codes, and the keys of their JSON.

Every command ends its help with
its exit codes and, where it prints facts, with the keys of its `--json`: they are promises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum

import typer

BEGIN = "Get started"
TRAIN = "Train and gate"
SERVE = "Serve"
WATCH = "Watch and retrain"
OPERATE = "Operate"


class Exit(IntEnum):
    """What a command's exit code says."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    GATE = 3
    INTERRUPTED = 130


MEANINGS = {
    Exit.DONE: "done",
    Exit.FAILED: "refused, failed, or the answer is no",
    Exit.USAGE: "wrong usage",
    Exit.GATE: "the gate stayed closed",
    Exit.INTERRUPTED: "stopped by Ctrl-C",
}


def add(
    app: typer.Typer,
    command: Callable[..., None],
    group: str | None = None,
    *,
    name: str | None = None,
    keys: str = "",
    many: bool = False,
    gated: bool = False,
) -> None:
    """Add a command with its notes.

    Args:
        keys: What `--json` prints: the keys of the object; "" for a command that prints none.
        many: Whether it prints a list of such objects.
        gated: Whether it may find the gate closed.
    """
    codes = [code for code in Exit if gated or code is not Exit.GATE]
    notes = (
        [f"--json prints {'a list of objects' if many else 'an object'}: {keys}."] if keys else []
    )
    app.command(name, rich_help_panel=group, epilog="\n\n".join([*notes, exit_note(codes)]))(
        command
    )


def exit_note(codes: Sequence[Exit] = tuple(Exit)) -> str:
    """The table of exit codes as a line of help."""
    return f"Exit codes: {'; '.join(f'{code.value} {MEANINGS[code]}' for code in codes)}."

"""The command line: one thin module a group of commands, put together here.

Commands import what they need when they run: `tidemill --help` must not wait for pandas and MLflow.
"""

from __future__ import annotations

import sys

import typer

from tidemill import __version__
from tidemill.cli import command_help, terminal
from tidemill.cli.commands import (
    api,
    challenge,
    demo,
    init,
    jobs,
    models,
    monitor,
    operate,
    predict,
    records,
    replay,
    retrain,
    serve,
    train,
    up,
    upkeep,
    watch,
)
from tidemill.errors import TidemillError

app = typer.Typer(
    name="tidemill",
    help="Train, register, gate, serve, watch and retrain models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=command_help.exit_note(),
)
for module in (
    up,
    demo,
    init,
    replay,
    train,
    models,
    serve,
    challenge,
    api,
    predict,
    records,
    watch,
    monitor,
    retrain,
    jobs,
    operate,
    upkeep,
):
    module.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tidemill {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Train, register, gate, serve, watch and retrain models."""


def run() -> None:
    """Run the command line; what Tidemill refuses becomes a message and an exit code."""
    try:
        app(prog_name="tidemill")
    except TidemillError as error:
        sys.exit(terminal.report_error(error))
    except KeyboardInterrupt:
        sys.exit(command_help.Exit.INTERRUPTED)
    except Exception as error:
        sys.exit(terminal.report_bug(error))

"""The `tidemill` command: the table of its commands, and the entry point."""

from __future__ import annotations

import sys

import typer

from tidemill import __version__
from tidemill.addresses import bypass_proxies
from tidemill.cli import command_help, terminal
from tidemill.cli.lazy_group import CommandEntry, LazyGroup, Panel
from tidemill.errors import TidemillError

GET_STARTED = Panel("Get started", "start")
TRAIN = Panel("Train and gate", "train")
SERVE = Panel("Serve", "serve")
MONITOR = Panel("Monitor and retrain", "monitor")
OPERATE = Panel("Operate", "operate")

#: Every command in the order of `--help`. Command X is in cli/commands/FOLDER/X.py, with the folder
#: of its panel; its help starts with the sentence given here.
COMMANDS = (
    CommandEntry(
        "up",
        GET_STARTED,
        "Start MLflow, the API and a worker; train and promote a first model if there is none.",
    ),
    CommandEntry(
        "demo",
        GET_STARTED,
        "Train two models, promote, serve, predict, and swap in a better version under load.",
    ),
    CommandEntry(
        "init",
        GET_STARTED,
        "Create a project: a Python file that says what to train, and a folder for its data.",
    ),
    CommandEntry(
        "replay",
        GET_STARTED,
        "Replay a labelled table in time order through the running loop, and report its gain.",
    ),
    CommandEntry(
        "train",
        TRAIN,
        "Train every candidate, track each trial in MLflow, and register the best as a version.",
    ),
    CommandEntry(
        "models",
        TRAIN,
        "List the registered models, or the versions of one with their stages and metrics.",
    ),
    CommandEntry(
        "promote",
        TRAIN,
        "Ask the gate to make the best version champion; exit 3 if the gate refuses.",
    ),
    CommandEntry("rollback", TRAIN, "Roll back to the previous champion."),
    CommandEntry(
        "serve",
        SERVE,
        "Serve models of an MLflow registry; a new champion is served within seconds.",
    ),
    CommandEntry(
        "challenge", SERVE, "Run a model's challenger as a shadow of its champion, or as a canary."
    ),
    CommandEntry(
        "api",
        SERVE,
        "Serve the control plane without predictions: jobs, experiments, models, promotion, audit.",
    ),
    CommandEntry("predict", SERVE, "Score a CSV file with a model, without a server."),
    CommandEntry("ingest", MONITOR, "Store the predictions that servers record, until Ctrl-C."),
    CommandEntry(
        "feedback", MONITOR, "Join a file of labels to the stored predictions by prediction id."
    ),
    CommandEntry(
        "export",
        MONITOR,
        "Write predictions with their labels as Parquet files, one per model and day.",
    ),
    CommandEntry(
        "watch",
        MONITOR,
        "Compare live predictions and labels with training, and act as each project's policy says.",
    ),
    CommandEntry(
        "report",
        MONITOR,
        "Write a model's monitoring report: drift, live metrics, and the decisions taken.",
    ),
    CommandEntry(
        "monitor",
        MONITOR,
        "Probe an API's health and predictions, and report its availability and latency.",
    ),
    CommandEntry(
        "retrain",
        MONITOR,
        "Retrain a model: open a trigger, for which a worker trains new versions.",
    ),
    CommandEntry("jobs", OPERATE, "List background jobs, newest first, or follow their progress."),
    CommandEntry(
        "cancel",
        OPERATE,
        "Cancel a job: at once if it has not started, within seconds if it is running.",
    ),
    CommandEntry("keys", OPERATE, "Create, list and revoke API keys."),
    CommandEntry(
        "doctor",
        OPERATE,
        "Check every part, and say what is wrong and how to fix it; exit 1 if there is an error.",
    ),
    CommandEntry("migrate", OPERATE, "Upgrade Tidemill's own database to this version's schema."),
    CommandEntry(
        "backup", OPERATE, "Write the databases, MLflow's metadata and the artifacts into one file."
    ),
    CommandEntry(
        "restore", OPERATE, "Restore a backup; stop the servers and workers of this home first."
    ),
    CommandEntry("audit", OPERATE, "List the audit log, and verify that nobody changed it."),
)


class TidemillGroup(LazyGroup):
    """The root command."""

    entries = COMMANDS


app = typer.Typer(
    name="tidemill",
    cls=TidemillGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=command_help.exit_note(),
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"tidemill {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Train, register, gate, serve, monitor and retrain models."""


def command_tree() -> TidemillGroup:
    """All commands, imported: for the reference and for tests."""
    root = typer.main.get_command(app)
    assert isinstance(root, TidemillGroup)
    root.load_all()
    return root


def run() -> None:
    """Run the command line and exit; a `TidemillError` becomes a message and an exit code."""
    bypass_proxies()
    try:
        app(prog_name="tidemill")
    except TidemillError as error:
        sys.exit(terminal.report_error(error))
    except KeyboardInterrupt:
        sys.exit(command_help.Exit.INTERRUPTED)
    except Exception as error:
        sys.exit(terminal.report_bug(error))

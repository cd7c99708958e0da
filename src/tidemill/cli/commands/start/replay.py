"""`tidemill replay`: replay a labelled table through the running loop, and report its gain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli import terminal
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import JsonOption
from tidemill.cli.local.replay_run import ReplayOptions, run_replay
from tidemill.errors import ConflictError, ProjectError
from tidemill.loop.replay.record import ReplayPace
from tidemill.loop.replay.report import ReplayReport

REPLAY_KEYS = (
    "source, model, task, verdict, interrupted, stopped, warmup, rows, pace, predictions_sent, "
    "predictions_stored, labels_sent, labels_stored, rows_refused, requests_failed, "
    "seconds, ways, events, versions"
)
app = command_app()


@app.command(epilog=notes(REPLAY_KEYS, gated=True))
def replay(
    file: Annotated[Path, typer.Argument(help="A CSV file with a header, labels included.")],
    project: Annotated[
        str | None,
        typer.Option(
            "--project", "-p", help="A project file or gallery:NAME. [default: a generated project]"
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The column to predict, if no project is given.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="The column to sort by. [default: the file's order]")
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(help="Rows to train on first. [default: a tenth, 500 to 5,000]", min=50),
    ] = None,
    label_delay: Annotated[
        int, typer.Option(help="Rows after which a row's label arrives.", min=0)
    ] = 200,
    batch: Annotated[int, typer.Option(help="Rows per request.", min=1, max=5000)] = 25,
    look: Annotated[int, typer.Option(help="Batches between checks of the model.", min=1)] = 4,
    every: Annotated[
        int | None,
        typer.Option(help="Rows between retrainings of the scheduled baseline.", min=1),
    ] = None,
    speed: Annotated[str, typer.Option(help="Only 'max': as fast as possible.")] = "max",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder of the report and state.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Replay a labelled table in time order through the running loop, and report its gain.

    A first champion is trained on the warm-up rows and served. The other rows are predicted over
    HTTP, and their labels follow. Drift and decay are monitored; a worker retrains the model, new
    versions are compared with the champion, and swapped in while requests continue. The report
    compares the loop with the first champion left alone and with retraining on a fixed schedule.
    After Ctrl-C, or an error, the report covers the rows replayed so far.

    Examples:

      tidemill replay electricity.csv --target class

      tidemill replay loans.csv --project churn/project.py --time date --label-delay 500
    """
    if speed != "max":
        raise ProjectError(f"There is no speed '{speed}'.", field="speed", expected="max")
    if project is not None and target is not None:
        raise ProjectError("Give --project or --target, not both.", field="target")
    folder = output or Path(f"replay-{file.stem}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(f"{folder} already exists.", remedy="Choose another with --output.")
    pace = ReplayPace(batch, label_delay, look)
    options = ReplayOptions(file, project, target, time, warmup, every, pace)
    report = run_replay(options, folder)
    paths = report.write(folder)
    if as_json:
        terminal.print_json(report.document)
    else:
        _print(report)
        terminal.out.print(f"\nThe report is in {paths[1]} and {paths[0]}.", markup=False)
    if report.trouble is not None:
        raise report.trouble


def _print(report: ReplayReport) -> None:
    rows = [(c.name, f"{c.loss:.4f}", c.retrainings, f"{c.seconds:.1f}") for c in report.strategies]
    terminal.print_table(["", "loss", "retrainings", "seconds"], rows, "Results")
    for event in report.document["events"]:
        terminal.out.print(f"{event['row']:>8,}  {event['kind']:8} {event['text']}", markup=False)
    terminal.out.print(f"\n{report.sentence}", markup=False)

"""`tidemill report`: write a model's monitoring report as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli import terminal
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import HomeOption, JsonOption, open_settings
from tidemill.cli.control_plane import open_platform
from tidemill.loop.monitoring.evidently import write_evidently
from tidemill.loop.monitoring.report import write_report

app = command_app()


@app.command(epilog=notes("model, files"))
def report(
    model: Annotated[str, typer.Argument(help="The registered model.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The HTML file to write.")] = Path(
        "report.html"
    ),
    window: Annotated[
        int | None,
        typer.Option(
            help="The id of a window, as /monitoring/drift lists it. [default: the latest]"
        ),
    ] = None,
    evidently: Annotated[
        bool,
        typer.Option("--evidently", help="Also write Evidently's report of the same window."),
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model's monitoring report: drift, live metrics, and the decisions taken.

    Examples:

      tidemill report churn -o churn.html

      tidemill report churn -o churn.html --evidently
    """
    with open_platform(open_settings(home)) as platform:
        watching = platform.monitoring_results
        paths = [write_report(watching, platform.triggers, model, output, window)]
        if evidently:
            paths.append(write_evidently(platform.watcher, watching, model, output, window))
    if as_json:
        terminal.print_json({"model": model, "files": paths})
        return
    for path in paths:
        terminal.out.print(f"Wrote {path}.", markup=False)

"""`tidemill monitor`: how an API does over time."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidemill.cli import command_help, terminal
from tidemill.cli.context import HomeOption, JsonOption, open_settings, start_logs
from tidemill.cli.local import process_specs
from tidemill.errors import InputError, TidemillError
from tidemill.loop.operations.signals import stop_event

if TYPE_CHECKING:
    from tidemill.loop.monitoring.api_monitor import ProbeBuffer
    from tidemill.settings import Settings
    from tidemill.stores.monitoring.api_probes import Probe

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def register(app: typer.Typer) -> None:
    command_help.add(
        app,
        monitor,
        command_help.WATCH,
        keys="url, started, ended, healthy, availability, probes, outages, versions",
    )


def monitor(
    url: Annotated[str, typer.Argument(help="The API, such as http://127.0.0.1:8000.")],
    every: Annotated[str, typer.Option(help="How often: 500ms, 10s, 1m.")] = "10s",
    duration: Annotated[
        str | None, typer.Option("--for", help="For how long: 30s, 5m, 12h. [default: till Ctrl-C]")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Only this model; may be repeated.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(envvar="TIDEMILL_API_KEY", help="An API key. [default: the home's own]"),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.", min=0.1)] = 10.0,
    reports: Annotated[Path, typer.Option(help="Where the reports go.")] = Path("reports"),
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Probe an API's health and predictions, and report how it did.

    Each look asks /health, /ready and a prediction of every model, made of its own example. Writes
    api_monitoring_report.png and monitoring_summary.json, also at Ctrl-C, and a row for each probe
    into the database. Exit 1 when a probe failed.

    Examples:

      tidemill monitor http://127.0.0.1:8000 --every 10s --for 5m

      TIDEMILL_API_KEY=... tidemill monitor https://api.example.com --model churn
    """
    from tidemill.loop.monitoring.api_monitor import monitor_api
    from tidemill.loop.monitoring.api_probe import ApiProber

    pace, seconds = span(every, "--every"), span(duration, "--for") if duration else None
    settings = open_settings(home)
    start_logs(settings, "monitor")
    with (
        contextlib.closing(
            ApiProber(
                url, key or process_specs.own_key(settings), models=model or (), timeout=timeout
            )
        ) as prober,
        _kept(settings) as keeper,
        stop_event() as stop,
    ):

        def tell(look: Sequence[Probe]) -> None:
            keeper.keep(look)
            if not as_json:
                _print(look)

        terminal.err.print(f"Probing {prober.url}. Ctrl-C ends it.", markup=False)
        found = monitor_api(prober, every=pace, seconds=seconds, stop=stop, tell=tell)
        from tidemill.loop.monitoring.api_monitor_report import write_reports

        summary = write_reports(reports, prober.url, found, prober.versions)
    if as_json:
        terminal.print_json(summary)
    else:
        _report(summary, reports)
    if not summary["healthy"]:
        raise typer.Exit(command_help.Exit.FAILED)


def span(text: str, option: str) -> float:
    """A duration such as 500ms, 10s or 5m, in seconds.

    Raises:
        InputError: It is none, or nothing.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text.strip())
    if match is None or float(match[1]) == 0:
        raise InputError(f"'{text}' is no duration.", field=option, expected="500ms, 10s, 5m, 12h")
    return float(match[1]) * UNITS[match[2]]


@contextlib.contextmanager
def _kept(settings: Settings) -> Iterator[ProbeBuffer]:
    """Where findings are kept; without a database there are the reports alone."""
    from tidemill.loop.monitoring.api_monitor import ProbeBuffer
    from tidemill.stores.database.schema import open_database
    from tidemill.stores.monitoring.api_probes import ApiProbes

    settings.home.mkdir(parents=True, exist_ok=True)
    try:
        database = open_database(settings)
    except TidemillError as error:
        terminal.err.print(f"Nothing is kept in the database: {error}", markup=False)
        yield ProbeBuffer(None)
        return
    try:
        keeper = ProbeBuffer(ApiProbes(database))
        yield keeper
        keeper.keep([])
    finally:
        database.close()


def _print(look: Sequence[Probe]) -> None:
    """One line a look, so that it can be read in a log too."""
    for probe in look:
        spent = f"{probe.milliseconds:.1f} ms" if probe.milliseconds is not None else ""
        colour = "green" if probe.healthy else "red"
        terminal.err.print(f"[{colour}]{'ok' if probe.healthy else 'failed':7}[/]", end="")
        words = f"{probe.probe:8} {spent:>12}  {probe.error or ''}"
        terminal.err.print(words.rstrip(), markup=False)


def _report(summary: dict[str, Any], reports: Path) -> None:
    rows = [
        [name, found["probes"], found["healthy"], *found["milliseconds"].values()]
        for name, found in summary["probes"].items()
    ]
    terminal.print_table(["probe", "asked", "healthy", "median ms", "p95", "p99", "max"], rows)
    for outage in summary["outages"]:
        words = f"{outage['probe']}: failed for {outage['seconds']:.1f} s from {outage['from']}"
        terminal.out.print(f"{words}: {outage['error']}", markup=False)
    terminal.out.print(f"The reports are in {reports}.", markup=False)

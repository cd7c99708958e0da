"""`tidemill monitor`: probe an API over time and report its availability and latency."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tidemill.cli import terminal
from tidemill.cli.command_help import Exit, command_app, notes
from tidemill.cli.context import HomeOption, JsonOption, open_settings, start_logs
from tidemill.cli.local.home import read_own_key
from tidemill.errors import InputError, TidemillError
from tidemill.loop.monitoring import api_monitor
from tidemill.loop.monitoring.api_monitor import ProbeBuffer
from tidemill.loop.monitoring.api_monitor_report import write_reports
from tidemill.loop.monitoring.api_probe import ApiProber
from tidemill.loop.operations.signals import stop_event
from tidemill.settings import Settings
from tidemill.stores.database.schema import open_database
from tidemill.stores.monitoring.api_probes import ApiProbes, Probe

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
app = command_app()


@app.command(epilog=notes("url, started, ended, healthy, availability, probes, outages, versions"))
def monitor(
    url: Annotated[str, typer.Argument(help="The API, such as http://127.0.0.1:8000.")],
    every: Annotated[str, typer.Option(help="Interval: 500ms, 10s, 1m.")] = "10s",
    duration: Annotated[
        str | None, typer.Option("--for", help="Duration: 30s, 5m, 12h. [default: until Ctrl-C]")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Only this model. May be repeated.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(envvar="TIDEMILL_API_KEY", help="An API key. [default: the home's own]"),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Timeout of a probe in seconds.", min=0.1)] = 10.0,
    reports: Annotated[Path, typer.Option(help="The folder of the reports.")] = Path("reports"),
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Probe an API's health and predictions, and report its availability and latency.

    Each round requests /health, /ready and one prediction from every model, with the model's own
    example. At the end, or at Ctrl-C, it writes api_monitoring_report.png and
    monitoring_summary.json; every probe is stored in the database. Exit 1 if a probe failed.

    Examples:

      tidemill monitor http://127.0.0.1:8000 --every 10s --for 5m

      TIDEMILL_API_KEY=... tidemill monitor https://api.example.com --model churn
    """
    interval = parse_duration(every, "--every")
    seconds = parse_duration(duration, "--for") if duration else None
    settings = open_settings(home)
    start_logs(settings, "monitor")
    prober = ApiProber(url, key or read_own_key(settings), models=model or (), timeout=timeout)
    with contextlib.closing(prober), _store(settings) as store, stop_event() as stop:

        def on_round(probes: Sequence[Probe]) -> None:
            store.add(probes)
            if not as_json:
                _print(probes)

        terminal.err.print(f"Probing {prober.url}. Ctrl-C stops it.", markup=False)
        found = api_monitor.monitor_api(
            prober, every=interval, seconds=seconds, stop=stop, on_probes=on_round
        )
        summary = write_reports(reports, prober.url, found, prober.versions)
    if as_json:
        terminal.print_json(summary)
    else:
        _print_summary(summary, reports)
    if not summary["healthy"]:
        raise typer.Exit(Exit.FAILED)


def parse_duration(text: str, option: str) -> float:
    """The seconds in a duration such as 500ms, 10s or 5m.

    Raises:
        InputError: The text is not a duration, or is zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text.strip())
    if match is None or float(match[1]) == 0:
        raise InputError(
            f"'{text}' is not a duration.", field=option, expected="500ms, 10s, 5m, 12h"
        )
    return float(match[1]) * UNITS[match[2]]


@contextlib.contextmanager
def _store(settings: Settings) -> Iterator[ProbeBuffer]:
    """Where probes are stored; without a database, only the reports are written."""
    settings.make_home()
    try:
        database = open_database(settings)
    except TidemillError as error:
        terminal.err.print(f"Probes are not stored in the database: {error}", markup=False)
        yield ProbeBuffer(None)
        return
    with contextlib.closing(database):
        store = ProbeBuffer(ApiProbes(database))
        yield store
        store.add([])


def _print(probes: Sequence[Probe]) -> None:
    """One line per probe, which stays readable in a log."""
    for probe in probes:
        latency = f"{probe.milliseconds:.1f} ms" if probe.milliseconds is not None else ""
        colour = "green" if probe.healthy else "red"
        terminal.err.print(f"[{colour}]{'ok' if probe.healthy else 'failed':7}[/]", end="")
        text = f"{probe.probe:8} {latency:>12}  {probe.error or ''}"
        terminal.err.print(text.rstrip(), markup=False)


def _print_summary(summary: dict[str, Any], reports: Path) -> None:
    rows = [
        [name, found["probes"], found["healthy"], *found["milliseconds"].values()]
        for name, found in summary["probes"].items()
    ]
    terminal.print_table(["probe", "sent", "healthy", "p50 ms", "p95", "p99", "max"], rows)
    for outage in summary["outages"]:
        text = f"{outage['probe']}: failed for {outage['seconds']:.1f} s from {outage['from']}"
        terminal.out.print(f"{text}: {outage['error']}", markup=False)
    terminal.out.print(f"The reports are in {reports}.", markup=False)

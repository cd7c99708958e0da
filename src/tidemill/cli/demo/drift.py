"""`tidemill demo --drift`: labels invert under load, and the loop replaces the degraded model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from tidemill.cli import terminal
from tidemill.cli.context import find_project, open_settings, start_logs
from tidemill.cli.demo.drifting_traffic import (
    MODEL,
    DriftingTraffic,
    Timeline,
    write_drift_project,
)
from tidemill.cli.gate import gate_version
from tidemill.cli.local.home import ensure_key, lock_home
from tidemill.cli.local.loop_processes import ingesting, open_client, start_processes
from tidemill.cli.local.ports import free_port
from tidemill.cli.local.process_specs import ServerAddresses
from tidemill.cli.local.supervisor import Supervisor, supervising
from tidemill.cli.training import train_project
from tidemill.errors import UnavailableError
from tidemill.platform import Platform
from tidemill.settings import Settings

ROWS_BEFORE_DRIFT = 400
TIMEOUT_SECONDS = 300.0
SECONDS_AFTER_SWAP = 3.0  # of traffic, to measure the new version's error rate


def drift_demo(folder: Path, *, quiet: bool = False) -> Timeline:
    """Train, serve, invert the labels, and watch the loop.

    Args:
        quiet: Print nothing.

    Returns:
        The events by the seconds since the drift; printed too unless `quiet`.

    Raises:
        UnavailableError: A request failed, or there was no new champion within five minutes.
    """
    project = write_drift_project(folder / "project")
    settings = open_settings(folder / ".tidemill", project=str(project), api_rate_limit="off")
    start_logs(settings, "demo")
    at = ServerAddresses(port=free_port(), mlflow_port=free_port())
    with lock_home(settings.home, at):
        _promote_first_champion(settings, str(project))
        with supervising() as supervisor:
            return _run(settings, at, supervisor, quiet)
    raise UnavailableError("The demo was stopped.")


def _promote_first_champion(settings: Settings, reference: str) -> None:
    project = find_project(reference, settings)
    result = train_project(project, settings)
    gate_version(settings, MODEL, project, version=result.version)


def _run(settings: Settings, at: ServerAddresses, supervisor: Supervisor, quiet: bool) -> Timeline:
    key = ensure_key(settings)[0].read_text()
    start_processes(supervisor, settings, at)
    timeline = Timeline()
    with (
        contextlib.closing(Platform.open(settings)) as platform,
        open_client(at, key) as client,
        ingesting(settings) as ingest,
        DriftingTraffic(client) as traffic,
    ):
        supervisor.wait_until(lambda: traffic.sent >= ROWS_BEFORE_DRIFT, "Traffic", TIMEOUT_SECONDS)
        ingest()
        platform.watcher.check(MODEL)
        timeline.start = time.monotonic()
        traffic.drifted.set()
        timeline.add("drift: the labels invert", f"{_error_rate(traffic, '1', False)} wrong so far")
        swapped = _await_new_champion(platform, traffic, ingest, supervisor, timeline)
        supervisor.wait_until(
            lambda: (
                traffic.error_rate(traffic.newest_version, drifted=True) is not None
                and time.monotonic() - timeline.start > swapped + SECONDS_AFTER_SWAP
            ),
            "The new champion",
            TIMEOUT_SECONDS,
        )
    if not quiet:
        _print(timeline, traffic)
    if traffic.failures:
        raise UnavailableError(
            f"{len(traffic.failures)} requests failed; the first: {traffic.failures[0]}"
        )
    return timeline


def _await_new_champion(
    platform: Platform,
    traffic: DriftingTraffic,
    ingest: Callable[[], None],
    supervisor: Supervisor,
    timeline: Timeline,
) -> float:
    """Ingest, check the model and add events until another version answers."""
    states: dict[str, str] = {}
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while traffic.newest_version == "1":
        supervisor.check()
        ingest()
        platform.watcher.check(MODEL)
        _add_events(platform, states, timeline)
        if time.monotonic() > deadline:
            raise UnavailableError("There was no new champion within five minutes.")
        time.sleep(0.2)
    _add_events(platform, states, timeline)
    return timeline.add("the new champion answers", f"version {traffic.newest_version}")


def _add_events(platform: Platform, states: dict[str, str], timeline: Timeline) -> None:
    """Add triggers and contests that are new or have ended; `states` holds those added already."""
    for trigger in reversed(platform.triggers.page(model=MODEL).items):
        if trigger.retrains and trigger.id not in states:
            timeline.add(f"trigger: {trigger.cause}", trigger.reason)
        if trigger.retrains and trigger.closed and states.get(trigger.id) != trigger.state:
            detail = (trigger.evidence or {}).get("contest") or {}
            timeline.add(trigger.state, str(detail.get("reason", "")))
        states[trigger.id] = trigger.state
    contest = platform.contests.newest(MODEL)
    if contest is not None and contest.id not in states:
        names = ", ".join(challenger.name for challenger in contest.challengers)
        timeline.add("retrained", f"{names} compete with version {contest.champion}")
        states[contest.id] = "open"


def _error_rate(traffic: DriftingTraffic, version: str, drifted: bool) -> str:
    rate = traffic.error_rate(version, drifted=drifted)
    return "none" if rate is None else f"{rate:.1%}"


def _print(timeline: Timeline, traffic: DriftingTraffic) -> None:
    newest = traffic.newest_version
    terminal.print_table(["seconds", "event", "detail"], timeline.rows, "Timeline")
    terminal.out.print(
        f"\nError rate of version 1: {_error_rate(traffic, '1', False)} before the drift, "
        f"{_error_rate(traffic, '1', True)} after it; of version {newest}: "
        f"{_error_rate(traffic, newest, True)}. {traffic.sent:,} predictions, "
        f"{len(traffic.failures)} failed.",
        markup=False,
    )

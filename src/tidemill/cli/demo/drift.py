"""`tidemill demo --drift`: the truth turns around under load, and the loop puts the model right."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from tidemill.cli import terminal
from tidemill.cli.commands.demo import free_port
from tidemill.cli.demo.drifting_traffic import MODEL, DriftingTraffic, Timeline, write_drift_project
from tidemill.cli.local import process_specs
from tidemill.cli.local.background import client_of, start, storing
from tidemill.cli.local.process_specs import ServerAddresses
from tidemill.cli.local.supervisor import Supervisor, supervising
from tidemill.errors import UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from tidemill.platform import Platform
    from tidemill.settings import Settings

CALM_ROWS = 400
PATIENCE = 300.0
AFTER = 3.0  # seconds of traffic behind the swap, to see what the new version is worth


def drift_demo(place: Path, *, quiet: bool = False) -> Timeline:
    """Train, serve, turn the truth around, and watch the loop.

    Args:
        quiet: Print nothing.

    Returns:
        What happened, by seconds since the turn; printed too unless it is to be quiet.

    Raises:
        UnavailableError: A request failed, or no new champion came in five minutes.
    """
    from tidemill.cli.context import open_settings, start_logs

    project = write_drift_project(place / "project")
    settings = open_settings(place / ".tidemill", project=str(project), api_rate_limit="off")
    start_logs(settings, "demo")
    at = ServerAddresses(port=free_port(), mlflow_port=free_port())
    with process_specs.lock_home(settings.home, at):
        _first_champion(settings, str(project))
        with supervising() as supervisor:
            return _show(settings, at, supervisor, quiet)
    raise UnavailableError("The demo was stopped.")


def _first_champion(settings: Settings, reference: str) -> None:
    from tidemill.cli.commands.models import gate_version
    from tidemill.cli.commands.train import train_project
    from tidemill.cli.context import find_project

    project = find_project(reference, settings)
    result = train_project(project, settings)
    gate_version(settings, MODEL, project, version=result.version)


def _show(settings: Settings, at: ServerAddresses, supervisor: Supervisor, quiet: bool) -> Timeline:
    from tidemill.platform import Platform

    key = process_specs.ensure_key(settings)[0].read_text()
    start(supervisor, settings, at)
    line = Timeline()
    with (
        contextlib.closing(Platform.open(settings)) as platform,
        client_of(at, key) as client,
        storing(settings) as store,
        DriftingTraffic(client) as tide,
    ):
        supervisor.wait_until(lambda: tide.sent >= CALM_ROWS, "Traffic", PATIENCE)
        store()
        platform.watcher.tick(MODEL)
        line.began = time.monotonic()
        tide.turned.set()
        line.add("the truth turns around", f"{_error(tide, '1', False)} wrong answers until now")
        swapped = _watch(platform, tide, store, supervisor, line)
        supervisor.wait_until(
            lambda: (
                (tide.error(_newest(tide), turned=True) or 1.0) < 1.0
                and time.monotonic() - line.began > swapped + AFTER
            ),
            "The new champion",
            PATIENCE,
        )
    if not quiet:
        _tell(line, tide)
    if tide.failures:
        raise UnavailableError(
            f"{len(tide.failures)} requests failed; the first: {tide.failures[0]}"
        )
    return line


def _watch(
    platform: Platform, tide: DriftingTraffic, store: object, supervisor: Supervisor, line: Timeline
) -> float:
    """Store, look, and note what happens until another version answers."""
    seen: dict[str, str] = {}
    deadline = time.monotonic() + PATIENCE
    while "2" not in tide.versions and _newest(tide) == "1":
        supervisor.check()
        store()  # type: ignore[operator]
        platform.watcher.tick(MODEL)
        _note(platform, seen, line)
        if time.monotonic() > deadline:
            raise UnavailableError("No new champion came in five minutes.")
        time.sleep(0.2)
    _note(platform, seen, line)
    return line.add("the new champion answers", f"version {_newest(tide)}")


def _note(platform: Platform, seen: dict[str, str], line: Timeline) -> None:
    for trigger in reversed(platform.triggers.page(model=MODEL).items):
        if trigger.retrains and trigger.id not in seen:
            line.add(f"trigger: {trigger.cause}", trigger.reason)
        if trigger.retrains and trigger.closed and seen.get(trigger.id) != trigger.state:
            detail = (trigger.evidence or {}).get("contest") or {}
            line.add(trigger.state, str(detail.get("reason", "")))
        seen[trigger.id] = trigger.state
    contest = platform.contests.newest(MODEL)
    if contest is not None and contest.id not in seen:
        names = ", ".join(challenger.name for challenger in contest.challengers)
        line.add("retrained", f"{names} compete with version {contest.champion}")
        seen[contest.id] = "open"


def _newest(tide: DriftingTraffic) -> str:
    numbers = [int(name) for name in list(tide.versions) if name.isdigit()]
    return str(max(numbers, default=1))


def _error(tide: DriftingTraffic, version: str, turned: bool) -> str:
    share = tide.error(version, turned=turned)
    return "no" if share is None else f"{share:.1%}"


def _tell(line: Timeline, tide: DriftingTraffic) -> None:
    newest = _newest(tide)
    terminal.print_table(["seconds", "what", "detail"], line.rows, "The time line")
    terminal.out.print(
        f"\nVersion 1 gave {_error(tide, '1', False)} wrong answers before the turn and "
        f"{_error(tide, '1', True)} after it; version {newest} gives "
        f"{_error(tide, newest, True)}. {tide.sent:,} predictions, {len(tide.failures)} failed.",
        markup=False,
    )

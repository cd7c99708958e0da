"""The doctor: checks every part of an installation and says how to fix what is wrong.

    for finding in run_checks(settings):
        print(finding.state, finding.part, finding.detail, finding.remedy)

Each check is a function that takes the settings and returns one finding.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from tidemill import keyring
from tidemill.addresses import open_url
from tidemill.errors import TidemillError
from tidemill.loop.operations.process_states import read_states
from tidemill.serving.journal.segments import damaged_segments
from tidemill.serving.shelf.shelf import open_bundle, read_state
from tidemill.settings import Settings, environment_variables
from tidemill.stores.audit import AuditLog
from tidemill.stores.database.database import Database
from tidemill.stores.database.schema import check_schema, schema_version
from tidemill.stores.jobs.broker import JobNotifier
from tidemill.stores.jobs.jobs import Jobs
from tidemill.stores.projects import Projects, project_references
from tidemill.stores.rate_limits import RateLimits

State = Literal["ok", "warning", "error"]

LOW_DISK_BYTES = 2 * 2**30
FULL_DISK_BYTES = 200 * 2**20
MAX_CLOCK_SKEW_SECONDS = 5.0
HTTP_TIMEOUT_SECONDS = 5.0
STALE_SYNC_SECONDS = 300.0
STALE_JOB_SECONDS = 60.0
MAX_NAMES = 5
#: The oldest versions that work.
PACKAGES = {"mlflow": (3, 17), "sqlalchemy": (2, 0), "celery": (5, 4), "fastapi": (0, 115)}


@dataclass(frozen=True)
class Finding:
    """The result of a check. `remedy` is what to do about it."""

    part: str
    state: State
    detail: str
    remedy: str | None = None


Check = Callable[[Settings], Finding]


def run_checks(settings: Settings) -> list[Finding]:
    """Run every check, causes before effects; a check that raises is an error finding."""
    return [_run(name, check, settings) for name, check in CHECKS.items()]


def _run(name: str, check: Check, settings: Settings) -> Finding:
    try:
        return check(settings)
    except TidemillError as error:
        return Finding(name, "error", error.detail, error.remedy)
    except Exception as error:
        return Finding(name, "error", f"{type(error).__name__}: {error}")


def check_versions(_: Settings) -> Finding:
    """Check the versions of Python, SQLite and the packages that must fit together."""
    shown, old = [f"Python {sys.version.split()[0]}"], []
    if sqlite3.sqlite_version_info < (3, 35):
        old.append(f"SQLite {sqlite3.sqlite_version} (3.35 is needed)")
    for name, least in PACKAGES.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            old.append(f"{name} is missing")
            continue
        shown.append(f"{name} {found}")
        if tuple(int(part) for part in found.split(".")[:2]) < least:
            old.append(f"{name} {found} ({least[0]}.{least[1]} is needed)")
    if old:
        remedy = "pip install --upgrade 'tidemill[standard]'"
        return Finding("versions", "error", "; ".join(old), remedy)
    return Finding("versions", "ok", ", ".join(shown))


def check_settings(settings: Settings) -> Finding:
    """Find variables that are not settings, such as misspelt ones."""
    from tidemill.serving.settings import ServingSettings

    known = {
        v
        for name, field in Settings.model_fields.items()
        for v in environment_variables(name, field)
    }
    known |= {f"TIDEMILL_{name.upper()}" for name in ServingSettings.__struct_fields__}
    known |= {f"{name}_FILE" for name in known}
    unread = [
        name
        for name in os.environ
        if name.startswith("TIDEMILL_") and name not in known and "_TEST_" not in name
    ]
    if unread:
        return Finding(
            "settings",
            "warning",
            f"Not a setting: {', '.join(sorted(unread))}.",
            "Correct the name.",
        )
    return Finding("settings", "ok", f"home {settings.home}")


def check_disk(settings: Settings) -> Finding:
    """Check the free disk space of the home."""
    folder = settings.home if settings.home.exists() else settings.home.parent
    free = shutil.disk_usage(folder).free
    detail = f"{free / 2**30:.1f} GiB free at {folder}"
    remedy = "Free some space, or move the home with TIDEMILL_HOME."
    if free < FULL_DISK_BYTES:
        return Finding("disk", "error", detail, remedy)
    if free < LOW_DISK_BYTES:
        return Finding("disk", "warning", detail, remedy)
    return Finding("disk", "ok", detail)


def check_database(settings: Settings) -> Finding:
    """Check that the database can be reached, its schema version and its clock."""
    with closing(Database(settings.database_uri)) as database:
        before = time.time()
        skew = database.now() - (before + time.time()) / 2
        if settings.database_url is None and schema_version(database) is None:
            return Finding("database", "ok", "does not exist yet; `tidemill up` creates it")
        check_schema(database)
        detail = f"{database.dialect} at schema {schema_version(database)}"
        if abs(skew) > MAX_CLOCK_SKEW_SECONDS:
            remedy = "Synchronize the clocks of both machines with NTP."
            return Finding(
                "database", "warning", f"{detail}; its clock is {skew:+.0f} s off", remedy
            )
        return Finding("database", "ok", detail)


def check_broker(settings: Settings) -> Finding:
    """Check that the broker can be reached."""
    notifier = JobNotifier(settings.broker_uri)
    try:
        problem = notifier.problem()
    finally:
        notifier.close()
    if problem is not None:
        remedy = "Start it, or correct TIDEMILL_BROKER_URL. Jobs are still accepted."
        return Finding("broker", "error", f"{notifier}: {problem}", remedy)
    return Finding("broker", "ok", str(notifier))


def check_limits(settings: Settings) -> Finding:
    """Check that the shared store of rate limits can be reached."""
    limits = RateLimits(settings.limits_url, settings.api_rate_limit)
    limits.take("doctor")
    if limits.degraded:
        remedy = "Start it, or correct TIDEMILL_LIMITS_URL. Each process counts for itself."
        where = urlsplit(settings.limits_url)
        detail = f"{where.scheme}://{where.hostname}:{where.port or 6379} cannot be reached"
        return Finding("limits", "error", detail, remedy)
    where_kept = "in each process" if settings.limits_url.startswith("memory") else "in Redis"
    return Finding("limits", "ok", f"{settings.api_rate_limit}, counted {where_kept}")


def check_jobs(settings: Settings) -> Finding:
    """Check that workers run the jobs that are due."""
    with closing(Database(settings.database_uri)) as database:
        check_schema(database)
        jobs = Jobs(database)
        counts, now = jobs.counts(), database.now()
        waiting = jobs.page(state="queued", limit=500).items
    summary = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none yet"
    late = [job for job in waiting if now - job.not_before > STALE_JOB_SECONDS]
    if late and not counts.get("running"):
        remedy = "Start a worker: `python -m tidemill.worker`."
        return Finding(
            "jobs", "error", f"{summary}; no worker runs the {len(late)} that are due", remedy
        )
    return Finding("jobs", "ok", summary)


def check_processes(settings: Settings) -> Finding:
    """Check that the processes of `tidemill up` run."""
    states = read_states(settings.home)
    if problems := [f"{each.problem}" for each in states if each.problem]:
        outputs = ", ".join(each.output for each in states if each.problem)
        return Finding("processes", "error", "; ".join(problems), f"Read {outputs}.")
    if failing := [each for each in states if each.failures]:
        counts = ", ".join(f"{each.name} {each.failures} times in a row" for each in failing)
        outputs = ", ".join(each.output for each in failing)
        return Finding("processes", "warning", f"restarted: {counts}", f"Read {outputs}.")
    return Finding("processes", "ok", f"{len(states)} supervised" if states else "none supervised")


def check_mlflow(settings: Settings) -> Finding:
    """Check that MLflow can be reached, its version and its clock."""
    uri = settings.mlflow_uri
    if urlsplit(uri).scheme not in ("http", "https"):
        return Finding("mlflow", "ok", f"version {version('mlflow')} on {_without_password(uri)}")
    try:
        with open_url(f"{uri.rstrip('/')}/version", HTTP_TIMEOUT_SECONDS) as answer:
            found, date = answer.read(64).decode().strip(), answer.headers.get("Date")
    except OSError as error:
        remedy = "Start it, or correct MLFLOW_TRACKING_URI. Serving does not need it."
        return Finding("mlflow", "error", f"{uri} cannot be reached: {error}", remedy)
    detail = f"server {found}, client {version('mlflow')}, at {uri}"
    if found.split(".")[0] != version("mlflow").split(".")[0]:
        return Finding("mlflow", "error", detail, "Install the same major version on both sides.")
    if date is not None:
        skew = parsedate_to_datetime(date).timestamp() - time.time()
        if abs(skew) > MAX_CLOCK_SKEW_SECONDS:
            remedy = "Synchronize the clocks of both machines with NTP."
            return Finding("mlflow", "warning", f"{detail}; its clock is {skew:+.0f} s off", remedy)
    return Finding("mlflow", "ok", detail)


def check_artifacts(settings: Settings) -> Finding:
    """Check that artifacts can be written."""
    if urlsplit(settings.mlflow_uri).scheme in ("http", "https"):
        return Finding("artifacts", "ok", "stored by the MLflow server")
    return _writable("artifacts", settings.artifact_root)


def check_journal(settings: Settings) -> Finding:
    """Check that the journal can be written and that no segment was damaged."""
    found = damaged_segments(settings.journal)
    if found:
        names = ", ".join(path.name for path in found[:MAX_NAMES])
        more = f" and {len(found) - MAX_NAMES:,} more" if len(found) > MAX_NAMES else ""
        detail = f"{len(found):,} damaged segments in {found[0].parent}: {names}{more}"
        remedy = (
            "Check the disk. The intact records are stored; delete the files when you need them "
            "no more."
        )
        return Finding("journal", "warning", detail, remedy)
    return _writable("journal", settings.journal)


def check_shelf(settings: Settings) -> Finding:
    """Check that the bundles to serve are on the shelf and intact."""
    if not (settings.shelf / "state.json").exists():
        if any(settings.shelf.glob("*/*/manifest.json")):
            detail = f"{settings.shelf / 'state.json'} is missing, but there are bundles"
            return Finding("shelf", "warning", detail, "Run the sync process; it writes the file.")
        return Finding("shelf", "ok", "empty; nothing has been served from here yet")
    state = read_state(settings.shelf)
    for placed in (*state.models.values(), *state.challengers.values()):
        open_bundle(settings.shelf, placed)
    if state.problems:
        problems = "; ".join(f"{model}: {problem}" for model, problem in state.problems.items())
        return Finding("shelf", "warning", problems, "The previous version is still served.")
    age = time.time() - state.synced_at
    detail = f"{len(state.models)} models, synced {age:.0f} s ago"
    if age > STALE_SYNC_SECONDS:
        remedy = "Check that `tidemill up` or the sync process runs and MLflow can be reached."
        return Finding("shelf", "warning", detail, remedy)
    return Finding("shelf", "ok", detail)


def check_keys(settings: Settings) -> Finding:
    """Check that there are keys, who can read their file, and which expire soon."""
    path = settings.keys_file
    if not path.exists():
        if path.with_name(f"{path.name}.lock").exists():
            remedy = "Restore it from a backup; servers that read it before still accept its keys."
            return Finding("keys", "error", f"{path} is missing, but was there", remedy)
        return Finding("keys", "warning", "no key yet", "Create one with `tidemill keys create`.")
    if path.stat().st_mode & 0o077:
        return Finding("keys", "error", f"others can read {path}", f"chmod 600 {path}")
    records = keyring.load(path).keys
    soon = [r.id for r in records if r.expires is not None and r.expires < time.time() + 7 * 86400]
    if soon:
        remedy = "Create new ones and distribute them."
        return Finding(
            "keys", "warning", f"{', '.join(soon)}: expired, or expiring within a week", remedy
        )
    return Finding("keys", "ok", f"{len(records)} keys")


def check_audit(settings: Settings) -> Finding:
    """Check that the audit log is intact."""
    with closing(Database(settings.database_uri)) as database:
        check_schema(database)
        log = AuditLog.from_settings(database, settings)
        report = log.verify()
    if not report.intact:
        remedy = "It was changed: keep a copy, and compare it with a backup."
        return Finding("audit", "error", str(report.problem), remedy)
    return Finding("audit", "ok", f"{report.rows} rows, intact")


def check_projects(settings: Settings) -> Finding:
    """Check that the projects load."""
    projects = Projects(project_references(settings.project), settings.model_name)
    known = projects.all()
    if projects.broken:
        problems = "; ".join(f"{where}: {what}" for where, what in projects.broken.items())
        return Finding("projects", "error", problems, "Fix the file, or correct TIDEMILL_PROJECT.")
    return Finding("projects", "ok", ", ".join(known) or "none")


CHECKS: dict[str, Check] = {
    "versions": check_versions,
    "settings": check_settings,
    "disk": check_disk,
    "database": check_database,
    "broker": check_broker,
    "limits": check_limits,
    "jobs": check_jobs,
    "processes": check_processes,
    "mlflow": check_mlflow,
    "artifacts": check_artifacts,
    "shelf": check_shelf,
    "journal": check_journal,
    "keys": check_keys,
    "audit": check_audit,
    "projects": check_projects,
}


def _writable(part: str, folder: Path) -> Finding:
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".doctor-{os.getpid()}"
    try:
        probe.write_bytes(b"x" * 4096)
    except OSError as error:
        remedy = f"Free some space, or let user {os.getuid()} write to it."
        return Finding(part, "error", f"{folder} cannot be written to: {error.strerror}", remedy)
    finally:
        probe.unlink(missing_ok=True)
    return Finding(part, "ok", str(folder))


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri

"""Break a running system at random: `python -m benchmarks.chaos --minutes 20 --set-up embedded`.

It starts `tidemill up`, sends predictions, labels and trainings, injects a fault every few seconds,
and in the end compares what was acknowledged with what is stored. It prints a table, writes JSON,
stops every process it has started, and exits with 1 if anything was lost or done twice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos.faults import Faults
from benchmarks.chaos.processes import Up
from benchmarks.chaos.traffic import Sent, Traffic
from benchmarks.chaos.verdict import (
    JobCounts,
    count_jobs,
    judge,
    wait_for_jobs,
    wait_until_stored,
    wrong,
)

WINDOW_SECONDS = 20.0  # after a fault, in which its gap and its failed requests are counted
PAUSE_SECONDS = (6.0, 12.0)  # between two faults
MLFLOW_DELETED = "MLflow's database deleted"


@dataclass
class Options:
    """One run; with `faults` only those whose name contains one of the words."""

    minutes: float = 20.0
    scaled: bool = False
    rate: float = 50.0
    seed: int = 1
    job_seconds: float = 15.0
    delete_mlflow: bool = True
    faults: list[str] = field(default_factory=list)


@dataclass
class Incident:
    """One injected fault: monotonic times of its start and of the next one."""

    name: str
    start: float
    end: float = 0.0


def run(options: Options, folder: Path) -> dict[str, Any]:
    """Run once in an empty folder and return the result as JSON values."""
    folder.chmod(0o755)  # PostgreSQL's user must reach it
    up = Up(folder / "home", scaled=options.scaled)
    try:
        up.wait_until_ready()
        traffic = Traffic(up.urls, up.key, rate=options.rate, job_seconds=options.job_seconds)
        started = time.monotonic()
        try:
            incidents, jobs = _inject(options, up, traffic)
        finally:
            sent = traffic.stop()
        seconds = time.monotonic() - started
        up.ensure_running()
        wait_until_stored(up, sent)
        verdict = judge(up, sent)
    finally:
        left = up.close()
    verdict.processes_left = len(left)
    found = asdict(verdict) | asdict(jobs)
    return _document(options, found, sent, (up.starts, seconds), incidents)


def _inject(options: Options, up: Up, traffic: Traffic) -> tuple[list[Incident], JobCounts]:
    """Inject faults in shuffled rounds, so that each kind comes equally often, until the end.

    Jobs are counted before MLflow's database is deleted, because they wait without a limit while
    MLflow does not work.
    """
    end = time.monotonic() + 60 * options.minutes
    faults = Faults(up, random.Random(options.seed))
    with contextlib.closing(faults):
        # Quiet afterwards, so that jobs can end.
        incidents = _rounds(options, up, faults, end - min(60.0, 15 * options.minutes))
    quiet = time.monotonic()
    traffic.stop_jobs()
    wait_for_jobs(up, traffic.sent)
    jobs = count_jobs(up, traffic.sent)
    ends = [incident.start for incident in incidents[1:]] + [quiet]
    if options.delete_mlflow:
        incidents.append(Incident(MLFLOW_DELETED, time.monotonic()))
        faults.delete_mlflow_database()
        time.sleep(WINDOW_SECONDS)
        ends.append(time.monotonic())
    time.sleep(max(0.0, end - time.monotonic()))
    for incident, following in zip(incidents, ends, strict=True):
        incident.end = min(following, incident.start + WINDOW_SECONDS)
    return incidents, jobs


def _rounds(options: Options, up: Up, faults: Faults, end: float) -> list[Incident]:
    drawn, available = random.Random(options.seed), faults.by_name()
    names = [n for n in available if not options.faults or any(w in n for w in options.faults)]
    incidents: list[Incident] = []
    waiting: list[str] = []
    started = time.monotonic()
    while time.monotonic() < end:
        waiting = waiting or drawn.sample(names, len(names))
        time.sleep(drawn.uniform(*PAUSE_SECONDS))
        incident = Incident(waiting.pop(), time.monotonic())
        if available[incident.name]():
            incidents.append(incident)
            print(f"{incident.start - started:6.0f} s  {incident.name}", flush=True)
        if up.ensure_running():
            incidents.append(Incident("up gave up", time.monotonic()))
            print("       `tidemill up` had ended and was started again", flush=True)
    return incidents


def _document(
    options: Options,
    counts: dict[str, int],
    sent: Sent,
    lasted: tuple[int, float],
    incidents: list[Incident],
) -> dict[str, Any]:
    starts, seconds = lasted
    by_name: dict[str, list[Incident]] = {}
    for incident in incidents:
        by_name.setdefault(incident.name, []).append(incident)
    return {
        "options": asdict(options),
        "seconds": round(seconds, 1),
        "starts of up": starts,
        "verdict": counts,
        "wrong": wrong(counts),
        "failures": sent.failure_counts(),
        "faults": {
            name: {
                "count": len(each),
                "longest_gap_seconds": round(
                    max(sent.longest_gap(i.start, i.end) for i in each), 2
                ),
                "failed_requests": sum(sent.failed(i.start, i.end) for i in each),
            }
            for name, each in sorted(by_name.items())
        },
    }


def table(document: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| fault | times | longest gap between answers, s | requests that failed |"]
    lines.append("|---|---:|---:|---:|")
    for name, found in document["faults"].items():
        figures = found["count"], found["longest_gap_seconds"], found["failed_requests"]
        lines.append(f"| {name} | " + " | ".join(str(figure) for figure in figures) + " |")
    lines += ["", "| | |", "|---|---:|"]
    lines += [f"| {name.replace('_', ' ')} | {n:,} |" for name, n in document["verdict"].items()]
    return "\n".join(lines)


def main() -> None:
    """Parse the options, run, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--set-up", choices=["embedded", "scaled"], default="embedded")
    parser.add_argument("--rate", type=float, default=50.0, help="predictions per second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", default="", help="only those, by comma-separated words")
    parser.add_argument("--keep-mlflow", action="store_true", help="do not delete its database")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--folder", type=Path, help="keep the home, the logs and output here")
    given = parser.parse_args()
    words = [word.strip() for word in given.faults.split(",") if word.strip()]
    options = Options(
        given.minutes, given.set_up == "scaled", given.rate, given.seed,
        delete_mlflow=not given.keep_mlflow, faults=words,
    )  # fmt: skip
    folder = given.folder or Path(tempfile.mkdtemp(prefix="tm-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is stopped
    document = run(options, folder)
    if given.json:
        given.json.write_text(json.dumps(document, indent=2) + "\n")
    print(table(document))
    if not document["wrong"]:
        if not given.folder:
            shutil.rmtree(folder, ignore_errors=True)
        return
    print(f"\nWrong: {document['wrong']}. The logs are in {folder}.")
    sys.exit(1)


if __name__ == "__main__":
    main()

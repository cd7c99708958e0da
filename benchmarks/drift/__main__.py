"""`python -m benchmarks.drift`: simulate clean and changed windows, write the report.

Takes about an hour and a half on two cores; `--quick` takes minutes and only checks that it runs.
Finished sections are saved in the JSON, and `--resume` continues from there.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads slow down many small matrices

from benchmarks.drift import alarms, harm, peers, power, speed, streams
from benchmarks.drift.data import Table, tables
from benchmarks.drift.page import markdown
from benchmarks.drift.picture import draw

DOCS = Path(__file__).parent.parent.parent / "docs" / "benchmarks"

Results = dict[str, Any]
Section = tuple[str, Callable[[], Any]]


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    path = options.output / "drift.json"
    done: Results = json.loads(path.read_text()) if options.keep and path.is_file() else {}
    if not options.report:
        options.output.mkdir(parents=True, exist_ok=True)
        found = tables()
        for name, work in sections(found, options.scale, options.share):
            if name not in done:
                done[name] = work()
                done["about"] = about(options.scale, options.share)
                path.write_text(json.dumps(done, indent=1))
    (options.output / "drift.md").write_text(markdown(done))
    draw(done, options.output / "drift.png")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.drift", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the windows")
    parser.add_argument(
        "--share",
        type=float,
        default=1.0,
        help="share of the windows to draw, except for the main false-alarm table",
    )
    parser.add_argument("--resume", action="store_true", help="skip sections that the JSON holds")
    parser.add_argument("--report", action="store_true", help="only rewrite the report")
    parser.add_argument(
        "--output", type=Path, help="default: docs/benchmarks, or a cache with --quick"
    )
    options = parser.parse_args(arguments)
    options.scale = 0.01 if options.quick else 1.0
    options.keep = options.resume or options.report
    options.output = options.output or (peers.CACHE / "quick" if options.quick else DOCS)
    return options


def sections(found: list[Table], scale: float, share: float = 1.0) -> list[Section]:
    """List the sections to measure, in the order of the report."""

    def some(windows: int) -> int:
        return max(4, round(windows * scale * share))

    def evidently(windows: int) -> int:
        return max(2, round(windows * scale * share))

    alarms.EVIDENTLY_WINDOWS = max(2, round(100 * scale))
    every = max(4, round(1000 * scale))
    drawn = power.populations(found)
    work: list[Section] = [
        ("alarms", lambda: alarms.false_alarms(found, 500, every, print)),
        ("alarms_small", lambda: alarms.false_alarms(found, 60, some(1000), print)),
        (
            "alarms_repeats",
            lambda: alarms.false_alarms(found, 500, some(1000), print, repeats=True),
        ),
    ]
    for name, population in drawn.items():
        ten = name.startswith("ten")
        work.append(
            (
                f"power: {name}",
                lambda name=name, population=population, ten=ten: power.shift_power(
                    name,
                    population,
                    500,
                    some(500 if ten else 200),
                    print,
                    for_evidently=evidently(60) if ten else 0,
                ),
            )
        )
    work += [
        ("changes", lambda: power.other_changes(500, some(300), print)),
        ("decay", lambda: harm.decay_alarms(found, some(500), print)),
        ("verdicts", lambda: harm.verdicts(found, some(100), print)),
        ("estimates", lambda: harm.estimates(found, some(200), print)),
        ("streams", lambda: streams.detectors(found, some(60), print)),
        ("speed", lambda: speed.speed(print)),
        ("sizes", speed.profile_sizes),
    ]
    return work


def about(scale: float, share: float) -> dict[str, Any]:
    """Describe the date, the machine and the versions."""
    versions = {name: peers.peer(name) for name in peers.PACKAGES}
    return {
        "date": datetime.date.today().isoformat(),
        "scale": scale,
        "share": share,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "peers": {
            name: peer.version or f"not installed: {peer.why}" for name, peer in versions.items()
        },
    }


if __name__ == "__main__":
    raise SystemExit(main())

"""`python -m benchmarks.retraining`: simulate policies on streams, write the report.

Takes about four minutes of CPU time per seed. Results are saved after each stream, and a second
start resumes from them.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.retraining.page import draw, markdown
from benchmarks.retraining.simulate import Policy, Setting, Sim, loop, schedule, static
from benchmarks.retraining.streams import NAMES, make_streams, stream

DOCS = Path(__file__).parent.parent.parent / "docs" / "benchmarks"
PARTS = 100


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.retraining", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--first", type=int, default=11, help="first seed; the policy was tuned on 1 to 3"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--report", action="store_true", help="only rewrite the report")
    parser.add_argument("--output", type=Path, default=DOCS)
    options = parser.parse_args()
    path = options.output / "retraining.json"
    options.output.mkdir(parents=True, exist_ok=True)
    done: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    seeds = list(range(options.first, options.first + options.seeds))
    if not options.report:
        make_streams(seeds)
        _run(done, seeds, options.jobs, path)
    (options.output / "retraining.md").write_text(markdown(done))
    draw(done, options.output / "retraining.png")


def _run(done: dict[str, Any], seeds: list[int], jobs: int, path: Path) -> None:
    wanted = [(name, seed) for seed in seeds for name in NAMES]
    left = [(name, seed) for name, seed in wanted if f"{name}-{seed}" not in done]
    with ProcessPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(play, name, seed) for name, seed in left]):
            name, seed, found = future.result()
            done[f"{name}-{seed}"] = found
            path.write_text(json.dumps(done, indent=None, separators=(",", ":")))
            print(f"{name}-{seed}", {k: (round(v["loss"], 4), v["retrainings"])
                                     for k, v in found.items()}, flush=True)  # fmt: skip


def play(name: str, seed: int) -> tuple[str, int, dict[str, Any]]:
    """Simulate every policy on one stream."""
    warnings.simplefilter("ignore")
    sim = Sim(stream(name, seed), Setting(), seed)
    ways = {
        "left alone": lambda: static(sim),
        "schedule, all": lambda: schedule(sim),
        "schedule, 5000": lambda: schedule(sim, 5000),
        "schedule, 2000": lambda: schedule(sim, 2000),
        "loop": lambda: loop(sim, Policy()),
    }
    found = {}
    for way, make in ways.items():
        before = sim.fits
        played = make()
        parts = [float(part.mean()) for part in _parts(played.losses)]
        found[way] = {
            "loss": float(played.losses.mean()),
            "retrainings": len(played.retrainings),
            "fits": sim.fits - before,
            "events": [*played.retrainings, *played.swaps],
            "over_time": [round(value, 4) for value in parts],
        }
    return name, seed, found


def _parts(losses: Any) -> list[Any]:
    size = max(1, len(losses) // PARTS)
    return [losses[start : start + size] for start in range(0, len(losses) - size + 1, size)]


if __name__ == "__main__":
    main()

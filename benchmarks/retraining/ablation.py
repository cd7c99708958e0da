"""`python -m benchmarks.retraining.ablation`: leave out each mechanism of the retraining policy.

Every stream is played with the full policy and once without each mechanism. Each result is written
as soon as it is measured; a second start resumes.

The results in docs/benchmarks were measured before the mechanisms that they show to be unnecessary
were removed, so they are not extended: measuring again needs another `--output`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.retraining.ablation_page import markdown
from benchmarks.retraining.real import real_stream, real_streams
from benchmarks.retraining.simulate import Model, Policy, Setting, Sim, Stream, loop, static
from benchmarks.retraining.streams import NAMES, make_streams, stream
from tidemill.policies import Contest
from tidemill.steps.decay.holdout import Holdout
from tidemill.steps.decay.loss_detector import retained_champion_detector
from tidemill.steps.retraining.contest import decide_contest
from tidemill.steps.retraining.training_windows import TrainingWindow

DOCS = Path(__file__).parent.parent.parent / "docs" / "benchmarks"

#: A replicate of a real stream begins so many rows later than the one before it.
OFFSET = 37

CONTEST = Contest()
FULL = Policy()


def without(**settings: Any) -> Policy:
    """The full policy with other settings of the contest."""
    return Policy(contest=replace(CONTEST, **settings))


#: Each policy to play, by what it leaves out.
POLICIES: dict[str, Policy] = {
    "nothing": FULL,
    "window search": replace(FULL, since=False, newest=False),
    "window `since`": replace(FULL, since=False),
    "window 2,000": replace(FULL, newest=False),
    "archived challengers": without(archived=0),
    "contest": replace(FULL, select="best challenger"),
    "contest, for a comparison on held-out rows": replace(FULL, select="gate"),
    "probation": without(probation=None),
    "autocorrelation": replace(FULL, widen=frozenset()),
    "autocorrelation: in the contest": replace(FULL, widen=frozenset({"detector"})),
    "autocorrelation: in the detector": replace(FULL, widen=frozenset({"contest"})),
    "growth": without(growth=None),
    "staleness check": without(staleness_check=False),
    "again_after": replace(FULL, again_after=None),
    "acceptance after `kept champion`": replace(FULL, accept=False),
    "detector": replace(FULL, detector=False),
    "window check": replace(FULL, checks=False),
    "wait": without(wait=1),
    "all challengers but one": without(challengers=1),
    "retraining": Policy(name="static"),
    # Together:
    "autocorrelation, window check": replace(FULL, checks=False, widen=frozenset()),
    "contest for a comparison, autocorrelation, window check, probation": replace(
        without(probation=None), select="gate", checks=False, widen=frozenset()
    ),
}


class CachedSim(Sim):
    """A simulation that shares fits, predictions and measurements between policies."""

    def __init__(self, stream: Stream, setting: Setting, seed: int) -> None:
        self.fitted: dict[tuple[str, TrainingWindow], Any] = {}
        self.predicted: dict[int, np.ndarray] = {}
        self.measured: dict[tuple[Any, ...], Any] = {}
        super().__init__(stream, setting, seed)

    def fit(self, learner: Any, w: TrainingWindow) -> Any:
        key = (type(learner).__name__, replace(w, name=""))
        if key in self.fitted:
            self.fits += self.fitted[key] is not None
        else:
            self.fitted[key] = super().fit(learner, w)
        return self.fitted[key]

    def answers(self, model: Model, rows: slice) -> np.ndarray:
        found = self.predicted.get(id(model.learner))
        if found is None:
            if rows == model.held:
                return super().answers(model, rows)
            found = self.predicted[id(model.learner)] = model.learner.predict(self.s.X)
        return found[rows]

    def holdout(self, model: Model) -> Holdout:
        key = (id(model.learner), model.held.start, model.held.stop)
        if key not in self.measured:
            self.measured[key] = super().holdout(model)
        return self.measured[key]

    def degraded(self, model: Model, holdout: Holdout, rows: slice) -> bool:
        key = (id(model.learner), id(holdout), rows.start, rows.stop)
        if key not in self.measured:
            self.measured[key] = super().degraded(model, holdout, rows)
        return self.measured[key]


@dataclass(frozen=True)
class Task:
    """A replicate of a stream, and the policies to play it with."""

    name: str
    seed: int
    folder: Path | None
    policies: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.name}-{self.seed}"

    def stream(self) -> Stream:
        """A generated stream of this seed, or a real one without its first rows."""
        if self.name in NAMES:
            return stream(self.name, self.seed)
        assert self.folder is not None
        whole = real_stream(self.name, self.folder)
        begin = self.seed * OFFSET
        return replace(whole, X=whole.X[begin:], y=whole.y[begin:])


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.retraining.ablation", description=__doc__
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=21, help="first seed; 1 to 3 were for tuning")
    parser.add_argument("--replicates", type=int, default=5, help="of each real stream")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--data", type=Path, help="the folder of the real streams' CSV files")
    parser.add_argument("--policies", nargs="*", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--report", action="store_true", help="only write the page again")
    parser.add_argument("--output", type=Path, default=DOCS)
    options = parser.parse_args()
    if not options.report and options.output == DOCS:
        parser.error("the published results are of the former policy; choose another --output")
    path = options.output / "ablation.json"
    done: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if not options.report:
        _run(done, _tasks(options, done), options.jobs, path)
    if done:
        (options.output / "ablation.md").write_text(markdown(done))


def _tasks(options: argparse.Namespace, done: dict[str, Any]) -> list[Task]:
    """The tasks that are not measured yet: one replicate of every stream, then the next."""
    seeds = range(options.first, options.first + options.seeds)
    make_streams(list(seeds))
    real = real_streams(options.data) if options.data else []
    runs = [(place, name, seed) for place, seed in enumerate(seeds) for name in NAMES]
    runs += [(place, name, place) for place in range(options.replicates) for name in real]
    runs.sort(key=lambda run: run[0])
    found = []
    for _, name, seed in runs:
        task = Task(name, seed, options.data, ())
        left = tuple(p for p in options.policies if p not in done.get(task.key, {}))
        if left:
            found.append(replace(task, policies=left))
    return found


def _run(done: dict[str, Any], tasks: list[Task], jobs: int, path: Path) -> None:
    began = time.monotonic()
    with ProcessPoolExecutor(jobs) as pool:
        futures = [pool.submit(play, task) for task in tasks]
        for count, future in enumerate(as_completed(futures), 1):
            task, found, seconds = future.result()
            done.setdefault(task.key, {}).update(found)
            path.write_text(_text(done))
            spent = time.monotonic() - began
            print(
                f"{spent:5.0f} s, {count} of {len(tasks)}: {task.key}, {len(found)} policies "
                f"in {seconds:.0f} s",
                flush=True,
            )


def _text(done: dict[str, Any]) -> str:
    """JSON with a line for each replicate."""
    lines = [
        f"{json.dumps(key)}:{json.dumps(done[key], separators=(',', ':'))}" for key in sorted(done)
    ]
    return "{" + ",\n".join(lines) + "}\n"


def play(task: Task) -> tuple[Task, dict[str, Any], float]:
    """One replicate through its policies."""
    warnings.simplefilter("ignore")
    began = time.monotonic()
    whole = task.stream()
    setting = Setting(warmup=min(Setting().warmup, len(whole.y) // 5))
    sim = CachedSim(whole, setting, task.seed)
    found = {name: _play(sim, name) for name in task.policies}
    return task, found, time.monotonic() - began


def _play(sim: CachedSim, name: str) -> dict[str, Any]:
    policy, before = POLICIES[name], sim.fits
    with ExitStack() as stack:
        users = {"contest": decide_contest, "detector": retained_champion_detector}
        for where, function in users.items():
            if where not in policy.widen:
                replaced = patch.dict(function.__globals__, autocorrelation_time=_independent)
                stack.enter_context(replaced)
        played = static(sim) if policy.name == "static" else loop(sim, policy)
    return {
        "loss": float(f"{played.losses.mean():.6g}"),
        "retrainings": len(played.retrainings),
        "swaps": sum(not what.startswith("kept") for _, what in played.swaps),
        "fits": sim.fits - before,
    }


def _independent(losses: Any) -> float:
    """Return an autocorrelation time of 1: every row counts as independent."""
    return 1.0


if __name__ == "__main__":
    main()

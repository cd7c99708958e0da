"""Performance targets of serving, and whether a run meets them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from benchmarks.serving.results import OURS, Results, Workload

ONE_ROW: Workload = ("logistic", 1, 16)
FOREST: Workload = ("forest", 1, 16)


@dataclass(frozen=True)
class Verdict:
    """One line of the report. `met` is None if the run did not measure the target."""

    target: str
    found: str
    met: bool | None


@dataclass(frozen=True)
class Target:
    title: str
    evaluate: Callable[[Results], tuple[str, bool] | None]

    def verdict(self, results: Results) -> Verdict:
        judged = self.evaluate(results)
        return Verdict(self.title, *judged) if judged else Verdict(self.title, "not measured", None)


def times(case: str, name: str, least: float, workload: Workload = ONE_ROW) -> Target:
    """Require a minimum ratio of the case's CPU per request to Tidemill's (median of rounds)."""

    def evaluate(results: Results) -> tuple[str, bool] | None:
        ratios = results.ratios(case, workload)
        if not ratios:
            return None
        spread = f" ({min(ratios):.3g} to {max(ratios):.3g})" if len(ratios) > 1 else ""
        return f"{median(ratios):.3g}x{spread}", median(ratios) >= least

    model = "" if workload == ONE_ROW else ", random forest"
    return Target(f"{name}{model}: CPU per request at least {least:g}x ours", evaluate)


def _tail(results: Results) -> tuple[str, bool] | None:
    p50 = results.figure(OURS, ONE_ROW, lambda s: s.p50)
    ratio = results.figure(OURS, ONE_ROW, lambda s: s.p99 / s.p50)
    if p50 is None or ratio is None:
        return None
    return f"{ratio:.1f}x a p50 of {p50 * 1e3:.2f} ms", ratio < 3


def _cold(results: Results) -> tuple[str, bool] | None:
    found = results.cold.get(OURS)
    return (f"{median(found):.2f} s", median(found) < 1) if found else None


def _memory(results: Results) -> tuple[str, bool] | None:
    memory = results.memory.get(OURS)
    return (f"{memory['pss'] / 2**20:.0f} MB", memory["pss"] / 2**20 < 90) if memory else None


def _journal(results: Results) -> tuple[str, bool] | None:
    """Return the cost of recording as a share of throughput and of CPU per request."""
    rates = results.ratios("tidemill-unrecorded", ONE_ROW, lambda s: s.rate)
    if not rates:
        return None
    lost = 1 - 1 / median(rates)
    more = 1 / median(results.ratios("tidemill-unrecorded", ONE_ROW)) - 1
    return f"{lost:.1%} of throughput; {more:.1%} more CPU per request", lost <= 0.1


FRAME = "`mlflow models serve`, DataFrame signature"
TENSOR = "`mlflow models serve`, tensor signature"

TARGETS = (
    times("mlflow-frame", FRAME, 150),
    times("mlflow-tensor", TENSOR, 25),
    times("bentoml", "BentoML", 40),
    times("vetiver", "vetiver", 28),
    times("litserve", "LitServe", 22),
    times("mlserver", "MLServer", 14),
    times("flask", "Flask + gunicorn", 13),
    times("fastapi:async", "FastAPI `async` + scikit-learn", 9),
    times("limit-asgi", "bare ASGI + ONNX, no features", 0.8),
    times("limit-asgi", "bare ASGI + ONNX, no features, against the fast path", 1.0),
    times("limit-asyncio", "asyncio + httptools + ONNX, no features", 0.5),
    times("mlserver", "MLServer", 80, FOREST),
    times("mlflow-frame", FRAME, 80, FOREST),
    times("mlflow-tensor", TENSOR, 80, FOREST),
    Target("p99 at 16 connections: under 3x p50", _tail),
    Target("the journal's cost: at most 10% of throughput", _journal),
    Target("cold start to the first correct answer: under 1 s", _cold),
    Target("memory (PSS) after load, two models loaded: under 90 MB", _memory),
)


def verdicts(results: Results) -> list[Verdict]:
    return [target.verdict(results) for target in TARGETS]

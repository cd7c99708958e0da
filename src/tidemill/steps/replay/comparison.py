"""What a replay was worth: the metric over time of each way, and a sentence about it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.project import Task
from tidemill.steps.decay.holdout import row_losses
from tidemill.steps.gate.gate import VersionEvidence, all_metrics, encode_labels

PARTS = 60
FEWEST_A_PART = 25
#: A difference of less than this share of the mean loss is called none.
ALIKE = 0.02


@dataclass(frozen=True)
class StrategyResult:
    """One way of keeping a model: its metrics over all rows, and its loss part by part.

    Attributes:
        loss: The share of wrong labels, or the mean absolute error.
        over_time: [parts] the same, part by part; NaN where nothing was answered.
    """

    name: str
    metrics: Mapping[str, float]
    loss: float
    over_time: npt.NDArray[np.float64]
    retrainings: int
    seconds: float


def strategy_result(
    name: str,
    task: Task,
    truth: npt.NDArray[Any],
    outputs: npt.NDArray[Any],
    answered: npt.NDArray[np.bool_],
    *,
    retrainings: int = 0,
    seconds: float = 0.0,
) -> StrategyResult:
    """How one way did on the rows that were answered.

    Args:
        truth, outputs: [rows].
    """
    losses = np.full(len(answered), np.nan)
    y, found = truth[answered], outputs[answered]
    losses[answered] = row_losses(task, y, found)
    metrics: dict[str, float] = {}
    if answered.any():
        numbers, answers = encode_labels(y, [VersionEvidence(found)], task)
        metrics = all_metrics(task, numbers, answers[0])
    parts = [losses[part] for part in part_edges(len(answered))]
    means = [float(np.nanmean(p)) if np.isfinite(p).any() else float("nan") for p in parts]
    loss = float(np.nanmean(losses)) if answered.any() else float("nan")
    return StrategyResult(name, metrics, loss, np.array(means), retrainings, seconds)


def part_edges(rows: int) -> list[slice]:
    """The parts that a course is drawn in: equal ones, not too small."""
    count = max(1, min(PARTS, rows // FEWEST_A_PART))
    edges = np.linspace(0, rows, count + 1).astype(int).tolist()
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def comparison_sentence(courses: Sequence[StrategyResult], task: Task) -> str:
    """One sentence: what the loop was worth against the other ways.

    Args:
        courses: The loop's first.
    """
    loop, *others = courses
    unit = "wrong answers" if task == "classification" else "mean absolute error"
    head = f"The loop had {_shown(loop.loss, task)} {unit} with {_times(loop.retrainings)}"
    tails = [
        f"{other.name} had {_shown(other.loss, task)} with {_times(other.retrainings)} "
        f"({_against(loop.loss, other.loss)})"
        for other in others
    ]
    return f"{head}; {'; '.join(tails)}." if tails else f"{head}."


def _shown(loss: float, task: Task) -> str:
    return f"{loss:.2%}" if task == "classification" else f"{loss:.4g}"


def _times(count: int) -> str:
    return f"{count} retraining{'' if count == 1 else 's'}" if count else "no retraining"


def _against(loop: float, other: float) -> str:
    if not other > 0 or abs(loop / other - 1) < ALIKE:
        return "the loop is as good"
    change = abs(1 - loop / other)
    return f"the loop is {change:.0%} {'better' if loop < other else 'worse'}"

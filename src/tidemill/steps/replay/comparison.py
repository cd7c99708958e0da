"""Compare strategies of a replay: the metrics and loss over time of each, and a summary."""

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
MIN_ROWS_PER_PART = 25
#: A smaller relative difference of the mean loss counts as none.
EQUAL_SHARE = 0.02


@dataclass(frozen=True)
class StrategyResult:
    """The result of one strategy, such as the loop or a schedule.

    Attributes:
        metrics: Over all rows.
        loss: The share of wrong labels, or the mean absolute error.
        over_time: [parts] the loss of each part of the table; NaN without predictions.
        retrainings: Number of retrainings.
        seconds: Time spent on them.
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
    """Evaluate a strategy on the rows that have predictions.

    Args:
        truth, outputs: [rows].
        answered: [rows] whether there is a prediction.
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
    """Divide rows into equal parts for the loss over time, none of them too small."""
    count = max(1, min(PARTS, rows // MIN_ROWS_PER_PART))
    edges = np.linspace(0, rows, count + 1).astype(int).tolist()
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def comparison_sentence(results: Sequence[StrategyResult], task: Task) -> str:
    """Summarise the comparison of the loop with other strategies in one sentence.

    Args:
        results: The loop's first.
    """
    loop, *others = results
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
    if not other > 0 or abs(loop / other - 1) < EQUAL_SHARE:
        return "the loop is as good"
    change = abs(1 - loop / other)
    return f"the loop is {change:.0%} {'better' if loop < other else 'worse'}"

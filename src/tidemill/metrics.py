"""The metrics that models are judged by: one table, which every other module looks up.

    >>> METRICS["rmse"].higher_is_better
    False
    >>> is_better("rmse", 0.4, than=0.5)
    True
    >>> default_metric("classification")
    'f1_score'

The definitions are scikit-learn's. A name without suffix averages over the classes with equal
weight ("macro"); `_weighted` weights each class by its number of rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tidemill.signature import Task


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        meaning: What it measures, in a few words.
        low, high: The range of its values; both ends can be reached where they are finite.
        needs_probabilities: Whether it is computed from class probabilities, not from labels.
    """

    name: str
    task: Task
    meaning: str
    higher_is_better: bool = True
    low: float = 0.0
    high: float = 1.0
    needs_probabilities: bool = False

    @property
    def uses_labels(self) -> bool:
        """Whether it is computed from the true and the predicted labels alone."""
        return self.task == "classification" and not self.needs_probabilities

    @property
    def sign(self) -> int:
        """1 where higher is better, otherwise -1: `sign * difference` is positive for a gain."""
        return 1 if self.higher_is_better else -1


_ROWS = (
    Metric("accuracy", "classification", "share of rows predicted correctly"),
    Metric("precision", "classification", "share of a class's predictions that are right"),
    Metric("recall", "classification", "share of a class's rows that are found"),
    Metric("f1_score", "classification", "harmonic mean of precision and recall"),
    Metric("precision_weighted", "classification", "precision, weighted by rows per class"),
    Metric("recall_weighted", "classification", "recall, weighted by rows per class"),
    Metric("f1_weighted", "classification", "F1 score, weighted by rows per class"),
    Metric(
        "roc_auc", "classification", "area under the ROC curve, one class against the rest",
        needs_probabilities=True,
    ),
    Metric(
        "log_loss", "classification", "mean -log of the true class's probability, in nats",
        higher_is_better=False, high=math.inf, needs_probabilities=True,
    ),
    Metric(
        "rmse", "regression", "root mean squared error, in the target's unit",
        higher_is_better=False, high=math.inf,
    ),
    Metric(
        "mae", "regression", "mean absolute error, in the target's unit",
        higher_is_better=False, high=math.inf,
    ),
    Metric("r2", "regression", "share of the target's variance explained", low=-math.inf),
)  # fmt: skip

#: Every metric that a gate, a decay policy or a promotion may name, by name, in display order.
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ROWS}

#: The metric that decides between models when the project names none.
_DEFAULT: dict[Task, str] = {"classification": "f1_score", "regression": "rmse"}

#: The metric that is a mean over rows: of the share of right answers, or of the absolute error.
#: Replays and contests compare models row by row, so they report this one.
_BY_ROW: dict[Task, str] = {"classification": "accuracy", "regression": "mae"}


TASKS: tuple[Task, ...] = ("classification", "regression")


def metrics_of(task: Task, *, probabilities: bool = True) -> list[str]:
    """The names of a task's metrics, in display order.

    Args:
        probabilities: Whether to include those that need class probabilities.
    """
    return [
        metric.name
        for metric in _ROWS
        if metric.task == task and (probabilities or not metric.needs_probabilities)
    ]


def default_metric(task: Task) -> str:
    """The metric that decides between models when the project names none."""
    return _DEFAULT[task]


def row_metric(task: Task) -> str:
    """The metric that is a mean over rows, which replays and contests report."""
    return _BY_ROW[task]


def is_better(metric: str, value: float, than: float) -> bool:
    """Whether `value` is strictly better than `than`.

    Raises:
        KeyError: There is no such metric.
    """
    return value > than if METRICS[metric].higher_is_better else value < than

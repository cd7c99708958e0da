"""Which metric decides between models, and which of two values of it is better."""

from __future__ import annotations

from tidemill.errors import ProjectError
from tidemill.project import METRICS, Project, Task

OF_REGRESSION = ("rmse", "mae", "r2")


def deciding_metric(project: Project, task: Task) -> str:
    """The metric that decides between models: the gate's, else f1_score or rmse.

    Raises:
        ProjectError: The gate names a metric of the other task.
    """
    name = project.gate.metric or ("f1_score" if task == "classification" else "rmse")
    if (name in OF_REGRESSION) != (task == "regression"):
        known = [
            metric for metric in METRICS if (metric in OF_REGRESSION) == (task == "regression")
        ]
        raise ProjectError(
            f"The gate decides by {name}, which {task} does not have.",
            field="gate",
            expected=f"one of {', '.join(known)}",
        )
    return name


def is_better(metric: str, one: float, other: float) -> bool:
    """Whether `one` is strictly better than `other`."""
    return one > other if METRICS[metric] else one < other

"""Labelled predictions as rows to learn from, beside a project's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tidemill.errors import DataError
from tidemill.project import Project
from tidemill.steps.data.clean import CleanedData, clean
from tidemill.steps.data.prepare import load_frame
from tidemill.steps.data.task import is_numeric


@dataclass(frozen=True)
class FeedbackData:
    """What labelled predictions have to teach, in the order in which they were asked.

    Attributes:
        frame: [rows, inputs] under the signature's names, or a tensor's numbers in order.
        actual: [rows] what turned out to be true.
        times: [rows] when each was asked, in seconds since the epoch; they do not fall.
        cut: The rows asked from then on are held out.
        changed: When things probably changed; None where nothing says so.
    """

    frame: pd.DataFrame
    actual: npt.NDArray[Any]
    times: npt.NDArray[np.float64]
    cut: float
    changed: float | None = None

    @property
    def learned(self) -> int:
        """How many of the rows are not held out."""
        return int(np.searchsorted(self.times, self.cut, side="left"))

    @property
    def since(self) -> int | None:
        """The first of the rows after the change."""
        if self.changed is None:
            return None
        return int(np.searchsorted(self.times, self.changed, side="left"))


def cut_at(times: npt.NDArray[np.float64], held: int) -> float:
    """The time from which on rows are held out, so that about `held` are.

    Rows that were asked at one time stay together: on the held-out side, unless that would leave
    nothing to learn from.

    Args:
        times: [rows] in order, at least one.
    """
    place = max(len(times) - held, 0)
    moment = float(times[min(place, len(times) - 1)])
    if moment > times[0]:
        return moment
    later = times[times > moment]
    return float(later[0]) if later.size else moment


def clean_with_feedback(project: Project, feedback: FeedbackData) -> tuple[CleanedData, int]:
    """The project's rows with the feedback after them, cleaned, and how many are the project's.

    Raises:
        DataError: The project's data cannot be used, or the feedback are not of its columns.
    """
    raw = load_frame(project)
    own = clean(raw, project)
    extra = _under_project_names(project, own.frame, feedback)
    cleaned = clean(raw, project, extra_rows=extra)
    return cleaned, len(cleaned.frame) - len(extra)


def _under_project_names(
    project: Project, own: pd.DataFrame, feedback: FeedbackData
) -> pd.DataFrame:
    """The feedback with every column that the project's cleaned rows have.

    A column that the model is not given, because it always says the same, goes on saying it.
    """
    names = [str(name) for name in own.columns if name != project.target]
    frame = feedback.frame.reset_index(drop=True)
    if project.tensor is not None:
        frame = frame.set_axis(names, axis="columns")
    columns: dict[str, Any] = {}
    for name in names:
        if name in frame.columns:
            columns[name] = frame[name]
        elif own[name].nunique(dropna=False) == 1:
            columns[name] = pd.Series([own[name].iloc[0]] * len(frame), dtype=own[name].dtype)
        else:
            raise DataError(
                f"The recorded predictions have no column '{name}', which the data have now.",
                field=name,
                remedy="Train and promote once with `tidemill train --promote`.",
            )
    columns[project.target] = _truth(feedback.actual, own[project.target])
    return pd.DataFrame(columns)


def _truth(actual: npt.NDArray[Any], target: pd.Series[Any]) -> pd.Series[Any]:
    """Labels as the project's own target has them."""
    values = pd.Series(list(actual))
    if is_numeric(target):
        return values.astype(target.dtype)
    return values.astype(object)

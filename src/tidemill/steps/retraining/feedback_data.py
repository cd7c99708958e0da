"""Labelled predictions as training rows, added to a project's own."""

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
    """Labelled predictions in the order in which they were made.

    Attributes:
        frame: [rows, inputs] under the signature's names, or a tensor's numbers in order.
        actual: [rows] the truth.
        times: [rows] when each was made, in seconds since the epoch, ascending.
        cut: Rows from this time on are held out.
        changed: The change point; None where no change is known.
    """

    frame: pd.DataFrame
    actual: npt.NDArray[Any]
    times: npt.NDArray[np.float64]
    cut: float
    changed: float | None = None

    @property
    def learned(self) -> int:
        """Number of rows that are not held out."""
        return int(np.searchsorted(self.times, self.cut, side="left"))

    @property
    def since(self) -> int | None:
        """First row after the change."""
        if self.changed is None:
            return None
        return int(np.searchsorted(self.times, self.changed, side="left"))


def cut_at(times: npt.NDArray[np.float64], held: int) -> float:
    """Return the time from which on rows are held out, so that about `held` are.

    Rows with the same time stay together: held out, unless that would leave none to train on.

    Args:
        times: [rows] ascending, at least one.
    """
    first = max(len(times) - held, 0)
    moment = float(times[min(first, len(times) - 1)])
    if moment > times[0]:
        return moment
    later = times[times > moment]
    return float(later[0]) if later.size else moment


def clean_with_feedback(project: Project, feedback: FeedbackData) -> tuple[CleanedData, int]:
    """Clean the project's rows with the feedback after them; also return the number of the former.

    Raises:
        DataError: The project's data cannot be used, or the feedback lacks a column.
    """
    raw = load_frame(project)
    own = clean(raw, project)
    extra = _under_project_names(project, own.frame, feedback)
    cleaned = clean(raw, project, extra_rows=extra)
    return cleaned, len(cleaned.frame) - len(extra)


def _under_project_names(
    project: Project, own: pd.DataFrame, feedback: FeedbackData
) -> pd.DataFrame:
    """The feedback with every column of the project's cleaned rows.

    A column that the model does not use because it is constant keeps its value.
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
                f"The recorded predictions have no column '{name}', which the data have.",
                field=name,
                remedy="Train and promote once with `tidemill train --promote`.",
            )
    columns[project.target] = _truth(feedback.actual, own[project.target])
    return pd.DataFrame(columns)


def _truth(actual: npt.NDArray[Any], target: pd.Series[Any]) -> pd.Series[Any]:
    """Labels with the type of the project's target."""
    values = pd.Series(list(actual))
    if is_numeric(target):
        return values.astype(target.dtype)
    return values.astype(object)

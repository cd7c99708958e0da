"""Find rows that a version was certainly not trained on, even after its data have changed.

Rows are held out by a number derived from their content (`tidemill.steps.data.split`): in each
class, those with the lowest numbers. So a split is described by the highest number held out, the
cut: whatever rows are added or removed, a row at or below the cut was held out or was not there.

See decision 045.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from tidemill.project import Project, Task
from tidemill.steps.data.fingerprint import seeded_row_hashes

MAX_CLASSES = 50
RANGE = float(2**64)
ALL_ROWS = ""  # the key of the cut that holds for every row


class Cut(msgspec.Struct, frozen=True):
    """A split: `highest` maps each class to its highest number held out, as a share of 1.

    `columns` identifies the columns that the numbers derive from; with other columns every row has
    another number, and the cut does not apply.
    """

    seed: int
    columns: str
    highest: dict[str, float]


def cut_of(frame: pd.DataFrame, test: pd.DataFrame, project: Project, task: Task) -> Cut | None:
    """Return the cut of a split; None where the last rows are held out instead.

    Args:
        frame: All cleaned rows.
        test: The held-out rows, with the same index.
    """
    if not project.shuffle:
        return None
    numbers = pd.Series(_shares(frame, project.seed), index=frame.index)[test.index]
    classes = _classes(test, project.target, task)
    by_class = numbers.groupby(classes.to_numpy()).max()
    if len(by_class) > MAX_CLASSES:
        by_class = pd.Series({ALL_ROWS: by_class.min()})
    highest = {str(label): float(number) for label, number in by_class.items()}
    return Cut(project.seed, _identity(frame), highest)


def is_fresh(rows: pd.DataFrame, cut: Cut, target: str, task: Task) -> npt.NDArray[np.bool_] | None:
    """Return which rows [rows] the version was not trained on; None if that is unknown.

    A row of a class that the version does not know counts as fresh.
    """
    if cut.columns != _identity(rows):
        return None
    numbers = _shares(rows, cut.seed)
    classes = _classes(rows, target, task)
    default = cut.highest.get(ALL_ROWS, 1.0)
    limits = classes.map(lambda label: cut.highest.get(label, default)).to_numpy(dtype=float)
    return np.asarray(numbers <= limits)


def _shares(frame: pd.DataFrame, seed: int) -> npt.NDArray[np.float64]:
    return seeded_row_hashes(frame, seed).astype(np.float64) / RANGE


def _classes(frame: pd.DataFrame, target: str, task: Task) -> pd.Series[Any]:
    if task == "regression":
        return pd.Series([ALL_ROWS] * len(frame), index=frame.index, dtype=object)
    return frame[target].map(str)


def _identity(frame: pd.DataFrame) -> str:
    return hashlib.sha256("\x1f".join(map(str, frame.columns)).encode()).hexdigest()[:16]

"""Which held-out rows a version surely did not learn from, also after its data have changed.

Rows are held out by a number drawn from their content (`tidemill.steps.data.split`): in each
class, the
lowest numbers. The highest number that was held out, the cut, is therefore all there is to remember
of a split: whatever rows come or go, a row at or under the cut was held out, or was not there.
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

MOST_CLASSES = 50
WHOLE = float(2**64)
EVERY = ""  # the key of the cut that holds for every row


class Cut(msgspec.Struct, frozen=True):
    """A split in short: `highest` maps each class to its highest number held out, as a share of 1.

    `columns` identifies the columns that the numbers were drawn from: with others, every row draws
    another number and the cut says nothing.
    """

    seed: int
    columns: str
    highest: dict[str, float]


def cut_of(frame: pd.DataFrame, test: pd.DataFrame, project: Project, task: Task) -> Cut | None:
    """The cut of a split; None where the last rows are held out instead.

    Args:
        frame: All cleaned rows; `test` are those of them that are held out, with the same index.
    """
    if not project.shuffle:
        return None
    lots = pd.Series(_shares(frame, project.seed), index=frame.index)[test.index]
    classes = _classes(test, project.target, task)
    by_class = lots.groupby(classes.to_numpy()).max()
    if len(by_class) > MOST_CLASSES:
        by_class = pd.Series({EVERY: by_class.min()})
    highest = {str(label): float(lot) for label, lot in by_class.items()}
    return Cut(project.seed, _identity(frame), highest)


def is_fresh(rows: pd.DataFrame, cut: Cut, target: str, task: Task) -> npt.NDArray[np.bool_] | None:
    """Which rows [rows] the version with this cut did not learn from; None if that cannot be told.

    A row of a class that the version did not know counts as fresh.
    """
    if cut.columns != _identity(rows):
        return None
    lots = _shares(rows, cut.seed)
    classes = _classes(rows, target, task)
    default = cut.highest.get(EVERY, 1.0)
    limits = classes.map(lambda label: cut.highest.get(label, default)).to_numpy(dtype=float)
    return np.asarray(lots <= limits)


def _shares(frame: pd.DataFrame, seed: int) -> npt.NDArray[np.float64]:
    return seeded_row_hashes(frame, seed).astype(np.float64) / WHOLE


def _classes(frame: pd.DataFrame, target: str, task: Task) -> pd.Series[Any]:
    if task == "regression":
        return pd.Series([EVERY] * len(frame), index=frame.index, dtype=object)
    return frame[target].map(str)


def _identity(frame: pd.DataFrame) -> str:
    return hashlib.sha256("\x1f".join(map(str, frame.columns)).encode()).hexdigest()[:16]

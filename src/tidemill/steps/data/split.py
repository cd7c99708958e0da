"""Which rows are held out: decided by their contents, so that it is stable when rows are added.

See decision 010.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tidemill.project import Project, Task
from tidemill.steps.data.fingerprint import seeded_row_hashes
from tidemill.steps.data.task import resolve_task


@dataclass(frozen=True)
class Split:
    """Rows to train on and held-out rows, each in their original order."""

    train: pd.DataFrame
    test: pd.DataFrame


def split(frame: pd.DataFrame, project: Project) -> Split:
    """Hold out `project.test_size` of the rows, stratified by class.

    Every row gets a number from its contents and the project's seed; of each class, the rows with
    the lowest numbers are held out. So the same rows give the same split in any order, and when a
    table grows, nearly all of its old rows stay on their side of the split: rows that an earlier
    version was trained on are not used to test it later. `project.shuffle=False` holds out the last
    rows instead.

    Args:
        frame: Cleaned rows with the target; see `tidemill.steps.data.clean.clean`.
    """
    if not project.shuffle:
        first = len(frame) - _share(len(frame), project.test_size)
        return Split(frame.iloc[:first], frame.iloc[first:])
    held_out = _held_out(frame, project, resolve_task(frame[project.target], project))
    return Split(frame[~held_out], frame[held_out])


def _held_out(frame: pd.DataFrame, project: Project, task: Task) -> npt.NDArray[np.bool_]:
    numbers = seeded_row_hashes(frame, project.seed)
    strata = _strata(frame[project.target], task)
    held_out = np.zeros(len(frame), dtype=bool)
    for stratum, count in enumerate(allocate(np.bincount(strata), project.test_size)):
        rows = np.flatnonzero(strata == stratum)
        held_out[rows[np.argsort(numbers[rows], kind="stable")[:count]]] = True
    return held_out


def _strata(target: pd.Series[Any], task: Task) -> npt.NDArray[np.intp]:
    if task == "regression":
        return np.zeros(len(target), dtype=np.intp)
    return pd.factorize(target, sort=True)[0]


def allocate(counts: npt.NDArray[np.intp], share: float) -> list[int]:
    """How many rows of each class to hold out: the share of all rows in total.

    By the largest remainder method (Hamilton's): the integer parts first, then one more for the
    largest remainders. Every class with two or more rows keeps at least one on either side.
    """
    quotas = counts * share
    parts = np.floor(quotas).astype(int)
    short = max(_share(int(counts.sum()), share) - int(parts.sum()), 0)
    parts[np.argsort(parts - quotas, kind="stable")[:short]] += 1
    return [int(n) for n in np.clip(parts, np.minimum(counts - 1, 1), np.maximum(counts - 1, 0))]


def _share(rows: int, share: float) -> int:
    """The number of rows in the share, leaving at least one row on either side."""
    return min(max(round(rows * share), 1), rows - 1)

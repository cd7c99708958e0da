"""Columns that reveal the target: what is known only afterwards, or what the target was made from.

A leak is only suspected: whether a column is known at prediction time, the data cannot tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tidemill.signature import Task

EXPLAINED = 0.999  # share of the target's variance, or area under the ROC curve
LIKELY = 0.9  # enough for a closer look: correlations with gaps are of different rows
SAMPLED_ROWS = 20_000
MAX_COLUMNS = 100  # of numbers, for pairs
MIN_ROWS = 20
_ASK = "is it a leak, or known at prediction time?"
_ASK_BOTH = "are they a leak, or known at prediction time?"


def find_leaks(
    frame: pd.DataFrame, inputs: Sequence[str], target: str, task: Task
) -> Iterator[tuple[str, str]]:
    """The suspected columns, each with a sentence that says why.

    For numbers: a column, or a sum or difference of two, that explains 99.9% of the target's
    variance. For classes: a column that separates two of them almost completely, whose values
    belong to one class each, or that is missing exactly where a class is.
    """
    rows = frame if len(frame) <= SAMPLED_ROWS else frame.sample(SAMPLED_ROWS, random_state=0)
    if len(rows) < MIN_ROWS:
        return
    numbers = [name for name in inputs if rows[name].dtype.kind in "if"]
    if task == "regression":
        yield from _explained(rows, numbers[:MAX_COLUMNS], target)
        return
    yield from _separated(rows, numbers, target)
    yield from _one_class_each(rows, [name for name in inputs if name not in numbers], target)
    yield from _missing_with_a_class(rows, inputs, target)


def _explained(
    rows: pd.DataFrame, numbers: Sequence[str], target: str
) -> Iterator[tuple[str, str]]:
    """R2 of linear regressions on one and two columns, from the correlations."""
    r = rows[[*numbers, target]].corr().to_numpy()
    with_target = r[:-1, -1]
    for name, share in zip(numbers, with_target**2, strict=True):
        if EXPLAINED <= share < 1 - 1e-12:
            text = f"Column '{name}' explains '{target}' almost exactly (R2 {share:.4f}): {_ASK}"
            yield name, text
    for i, j in combinations(range(len(numbers)), 2):
        if max(with_target[i] ** 2, with_target[j] ** 2) >= EXPLAINED or r[i, j] ** 2 > 0.9999:
            continue
        a, b, ab = with_target[i], with_target[j], r[i, j]
        share = (a * a + b * b - 2 * a * b * ab) / (1 - ab * ab)
        if share < LIKELY:
            continue
        share = _share_of_both(rows[[numbers[i], numbers[j], target]].dropna())
        if share >= EXPLAINED:
            yield (
                numbers[i],
                f"Columns '{numbers[i]}' and '{numbers[j]}' together explain '{target}' almost "
                f"exactly (R2 {min(share, 1.0):.4f}): {_ASK_BOTH}",
            )


def _share_of_both(rows: pd.DataFrame) -> float:
    """R2 of the last column on the others, over complete rows; the pairs' own rows may differ."""
    if len(rows) < MIN_ROWS:
        return 0.0
    values = rows.to_numpy(float)
    X, y = values[:, :-1] - values[:, :-1].mean(axis=0), values[:, -1] - values[:, -1].mean()
    residual = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    return float(1 - residual @ residual / max(y @ y, np.finfo(float).tiny))


def _separated(
    rows: pd.DataFrame, numbers: Sequence[str], target: str
) -> Iterator[tuple[str, str]]:
    """The area under the ROC curve of one column, for two classes (the Mann-Whitney statistic)."""
    classes = rows[target].unique()
    if len(classes) != 2:
        return
    of_first = (rows[target] == classes[0]).to_numpy()
    for name in numbers:
        known = rows[name].notna().to_numpy()
        first = int((of_first & known).sum())
        second = int(known.sum()) - first
        if min(first, second) < MIN_ROWS // 2 or rows[name].nunique() <= 2:
            continue
        ranks = rows[name].rank().to_numpy()[of_first & known].sum()
        area = (ranks - first * (first + 1) / 2) / (first * second)
        if max(area, 1 - area) >= EXPLAINED:
            yield (
                name,
                f"Column '{name}' separates the classes of '{target}' almost exactly "
                f"(area under the ROC curve {max(area, 1 - area):.4f}): {_ASK}",
            )


def _one_class_each(
    rows: pd.DataFrame, names: Sequence[str], target: str
) -> Iterator[tuple[str, str]]:
    """Categories that occur often and belong to one class each; not those that match the classes
    one to one, which another check reports.
    """
    codes = pd.factorize(rows[target])[0]
    most = np.bincount(codes).max() / len(rows)
    for name in names:
        distinct = rows[name].nunique()
        if not 2 <= distinct <= len(rows) / MIN_ROWS or distinct == len(set(codes)):
            continue
        counts = pd.crosstab(rows[name], codes)
        pure = counts.max(axis="columns").sum() / max(counts.to_numpy().sum(), 1)
        if pure >= EXPLAINED and most < 0.9:
            yield (
                name,
                f"The values of column '{name}' belong to one class of '{target}' each: {_ASK}",
            )


def _missing_with_a_class(
    rows: pd.DataFrame, inputs: Sequence[str], target: str
) -> Iterator[tuple[str, str]]:
    counts = rows[target].value_counts()
    classes = [label for label in counts.index if MIN_ROWS // 2 <= counts[label] < len(rows)]
    for name in inputs:
        missing = rows[name].isna().to_numpy()
        if not missing.any() or missing.all():
            continue
        for label in classes:
            if _agree(missing, (rows[target] == label).to_numpy()):
                yield (
                    name,
                    f"Column '{name}' is missing exactly where '{target}' is {label!r}: {_ASK}",
                )


def _agree(missing: npt.NDArray[np.bool_], chosen: npt.NDArray[Any]) -> bool:
    """Whether at least 99% of the rows of either are rows of both."""
    both = int((missing & chosen).sum())
    return both >= 0.99 * max(int(missing.sum()), int(chosen.sum()))

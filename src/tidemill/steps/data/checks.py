"""Checks of a table: errors that make training impossible, and warnings about doubtful data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tidemill.errors import DataError
from tidemill.project import Project, Task
from tidemill.steps.data.date_formats import date_formats
from tidemill.steps.data.fingerprint import row_hashes
from tidemill.steps.data.leaks import find_leaks
from tidemill.steps.data.task import is_numeric

MIN_ROWS = 10
MIN_CLASS_ROWS = 5
MAX_DISTINCT_TEXTS = 20
NUMERIC_SHARE = 0.8
MAX_SQUARABLE = 1e150


@dataclass(frozen=True)
class DataWarning:
    """Something doubtful about the data: it does not stop training and is recorded with the run."""

    text: str
    column: str | None = None


def check_usable(frame: pd.DataFrame, project: Project, task: Task) -> None:
    """Raise if a model cannot be trained on the table, or its rows cannot be split.

    Raises:
        DataError: There are too few rows, only one class, or a class with a single row.
    """
    if len(frame) < MIN_ROWS:
        raise DataError(
            f"There are {len(frame)} rows with a target; at least {MIN_ROWS} are needed.",
            field=project.target,
        )
    if task == "classification":
        _check_classes(frame[project.target], project)


def check_finite(frame: pd.DataFrame) -> None:
    """Raise if there are infinite values.

    Raises:
        DataError: There are; the message names their columns.
    """
    found = {str(name): _count_infinite(frame[name]) for name in frame.columns}
    bad = {name: count for name, count in found.items() if count}
    if bad:
        shown = ", ".join(f"'{name}' ({count})" for name, count in list(bad.items())[:10])
        raise DataError(
            f"There are infinite values in {shown}.",
            field=next(iter(bad)),
            expected="finite numbers, or missing",
            remedy="Replace them with missing values, or drop the rows, in the data function.",
        )


def _count_infinite(series: pd.Series[Any]) -> int:
    return int(np.isinf(series.to_numpy()).sum()) if series.dtype.kind == "f" else 0


def _check_classes(target: pd.Series[Any], project: Project) -> None:
    counts = target.value_counts()
    if len(counts) < 2:
        raise DataError(
            f"The target '{target.name}' has only one class, {counts.index.tolist()[0]!r}.",
            field=project.target,
            expected="two classes or more",
        )
    single = [repr(label) for label in counts[counts < 2].index.tolist()]
    if single:
        shown = ", ".join(single[:5]) + (f" and {len(single) - 5} more" if len(single) > 5 else "")
        raise DataError(
            f"Too few rows of a class: the target '{target.name}' has a single row of {shown}. "
            "A class needs rows to train on and rows to hold out.",
            field=project.target,
            expected="at least two rows of every class",
            remedy="Add rows, or merge or drop rare classes in the data function. "
            'If the target is a quantity, set task="regression".',
        )


def find_warnings(
    frame: pd.DataFrame, inputs: Sequence[str], target: str, task: Task
) -> Iterator[DataWarning]:
    """Find doubtful data: rare classes, duplicates, leaks, ids, and numbers stored as text."""
    if task == "classification":
        yield from _rare_classes(frame[target])
    yield from _duplicate_rows(frame)
    yield from _duplicate_columns(frame, inputs)
    for name, suspicion in find_leaks(frame, inputs, target, task):
        yield DataWarning(suspicion, name)
    for name in inputs:
        for text in (
            _leak(frame[name], frame[target], task),
            _row_number(frame[name]),
            _too_large(frame[name]),
            _doubtful_text(frame[name]),
        ):
            if text:
                yield DataWarning(f"Column '{name}' {text}", name)


def _rare_classes(target: pd.Series[Any]) -> Iterator[DataWarning]:
    counts = target.value_counts()
    for label, count in zip(counts.index.tolist(), counts.tolist(), strict=True):
        if count < MIN_CLASS_ROWS:
            text = f"Class {label!r} has only {count} rows: its metrics are unreliable."
            yield DataWarning(text, str(target.name))


def _duplicate_rows(frame: pd.DataFrame) -> Iterator[DataWarning]:
    duplicates = int(pd.Series(row_hashes(frame)).duplicated().sum())
    if duplicates:
        text = "rows repeat an earlier row; duplicates may be both trained on and held out."
        yield DataWarning(f"{duplicates} {text}")


def _duplicate_columns(frame: pd.DataFrame, inputs: Sequence[str]) -> Iterator[DataWarning]:
    first: dict[bytes, str] = {}
    for name in inputs:
        key = row_hashes(frame[[name]]).tobytes()
        if key in first:
            yield DataWarning(f"Columns '{first[key]}' and '{name}' contain the same values.", name)
        first.setdefault(key, name)


def _leak(series: pd.Series[Any], target: pd.Series[Any], task: Task) -> str | None:
    """Whether a column reveals the target: the same values, or one value for each class."""
    if task == "regression":
        same = is_numeric(series) and bool(np.array_equal(series, target))
    else:
        same = bool(np.array_equal(_codes(series), _codes(target)))
    return "determines the target exactly; is it known at prediction time?" if same else None


def _codes(series: pd.Series[Any]) -> npt.NDArray[np.intp]:
    return pd.factorize(series, use_na_sentinel=False)[0]


def _row_number(series: pd.Series[Any]) -> str | None:
    if series.dtype.kind != "i" or not (series.diff().iloc[1:] == 1).all():
        return None
    return "counts the rows; if it is an id or an index, drop it."


def _too_large(series: pd.Series[Any]) -> str | None:
    if series.dtype.kind != "f" or not bool((series.abs() > MAX_SQUARABLE).any()):
        return None
    return f"contains values beyond {MAX_SQUARABLE:g}: their squares overflow, so scaling fails."


def _doubtful_text(series: pd.Series[Any]) -> str | None:
    if series.dtype.kind in "fib":
        return None
    present = series.dropna()
    if formats := date_formats(series):
        either = " or ".join(f"dates={{{str(series.name)!r}: {form!r}}}" for form in formats)
        return f"is text that looks like dates; if it is, set {either} in the project."
    numeric = float(pd.to_numeric(present, errors="coerce").notna().mean())
    if NUMERIC_SHARE <= numeric < 1:
        odd = present[pd.to_numeric(present, errors="coerce").isna()].iloc[0]
        return f"is text, but {numeric:.0%} of its values are numbers; is {odd!r} a missing value?"
    distinct = present.nunique()
    if distinct > MAX_DISTINCT_TEXTS and distinct > len(present) / 2:
        return f"has {distinct} distinct texts in {len(present)} rows; if it is an id, drop it."
    return None

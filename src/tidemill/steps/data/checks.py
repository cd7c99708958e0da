"""What may be wrong with a table: refused where nothing sensible can follow, else a warning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tidemill.errors import DataError
from tidemill.project import Project, Task
from tidemill.steps.data.fingerprint import row_hashes
from tidemill.steps.data.task import is_numeric

MIN_ROWS = 10
MIN_CLASS_ROWS = 5
MAX_DISTINCT_TEXTS = 20
NUMERIC_SHARE = 0.8
MAX_SQUARABLE = 1e150


@dataclass(frozen=True)
class DataWarning:
    """Something about the data that training goes on in spite of, recorded with the run."""

    text: str
    column: str | None = None


def check_usable(frame: pd.DataFrame, project: Project, task: Task) -> None:
    """Refuse what no model can learn from, or what could not be split or scored.

    Raises:
        DataError: Too few rows, infinite values, or a class with too few rows.
    """
    if len(frame) < MIN_ROWS:
        raise DataError(
            f"There are {len(frame)} rows with a target; at least {MIN_ROWS} are needed.",
            field=project.target,
        )
    if task == "classification":
        _refuse_lone_classes(frame[project.target], project)


def check_finite(frame: pd.DataFrame) -> None:
    """Refuse infinite values, naming their columns."""
    found = {str(name): _infinities(frame[name]) for name in frame.columns}
    bad = {name: count for name, count in found.items() if count}
    if bad:
        shown = ", ".join(f"'{name}' ({count})" for name, count in list(bad.items())[:10])
        raise DataError(
            f"There are infinite values in {shown}.",
            field=next(iter(bad)),
            expected="finite numbers, or missing",
            remedy="Replace them by missing values or drop the rows in the data function.",
        )


def _infinities(series: pd.Series[Any]) -> int:
    return int(np.isinf(series.to_numpy()).sum()) if series.dtype.kind == "f" else 0


def _refuse_lone_classes(target: pd.Series[Any], project: Project) -> None:
    counts = target.value_counts()
    if len(counts) < 2:
        raise DataError(
            f"The target '{target.name}' holds one class only, {counts.index.tolist()[0]!r}.",
            field=project.target,
            expected="two classes or more",
        )
    lone = [repr(label) for label in counts[counts < 2].index.tolist()]
    if lone:
        shown = ", ".join(lone[:5]) + (f" and {len(lone) - 5} more" if len(lone) > 5 else "")
        raise DataError(
            f"Too few rows of a class: the target '{target.name}' has a single row of {shown}, "
            "which cannot be both trained on and held out.",
            field=project.target,
            expected="two rows or more of every class",
            remedy="Add rows, merge rare classes or leave them out in the data function; "
            'if the target is a quantity, set task="regression".',
        )


def find_warnings(
    frame: pd.DataFrame, inputs: Sequence[str], target: str, task: Task
) -> Iterator[DataWarning]:
    """Every warning about a table: rare classes, twins, leaks, ids, and numbers kept as text."""
    if task == "classification":
        yield from _rare_classes(frame[target])
    yield from _equal_rows(frame)
    yield from _equal_columns(frame, inputs)
    for name in inputs:
        for text in (
            _leak(frame[name], frame[target], task),
            _row_number(frame[name]),
            _beyond_squares(frame[name]),
            _text_trouble(frame[name]),
        ):
            if text:
                yield DataWarning(f"Column '{name}' {text}", name)


def _rare_classes(target: pd.Series[Any]) -> Iterator[DataWarning]:
    counts = target.value_counts()
    for label, count in zip(counts.index.tolist(), counts.tolist(), strict=True):
        if count < MIN_CLASS_ROWS:
            text = f"Class {label!r} has only {count} rows: its scores mean little."
            yield DataWarning(text, str(target.name))


def _equal_rows(frame: pd.DataFrame) -> Iterator[DataWarning]:
    twins = int(pd.Series(row_hashes(frame)).duplicated().sum())
    if twins:
        text = (
            f"Rows that repeat an earlier row: {twins}. One may be learned from, its twin held out."
        )
        yield DataWarning(text)


def _equal_columns(frame: pd.DataFrame, inputs: Sequence[str]) -> Iterator[DataWarning]:
    first: dict[bytes, str] = {}
    for name in inputs:
        key = row_hashes(frame[[name]]).tobytes()
        if key in first:
            yield DataWarning(f"Columns '{first[key]}' and '{name}' hold the same values.", name)
        first.setdefault(key, name)


def _leak(series: pd.Series[Any], target: pd.Series[Any], task: Task) -> str | None:
    """A column that tells the target: the same values, or one value for every class."""
    if task == "regression":
        same = is_numeric(series) and bool(np.array_equal(series, target))
    else:
        same = bool(np.array_equal(_codes(series), _codes(target)))
    return "tells the target exactly; is it known before the answer is?" if same else None


def _codes(series: pd.Series[Any]) -> npt.NDArray[np.intp]:
    return pd.factorize(series, use_na_sentinel=False)[0]


def _row_number(series: pd.Series[Any]) -> str | None:
    if series.dtype.kind != "i" or not (series.diff().iloc[1:] == 1).all():
        return None
    return "counts the rows; if it is an id or an index, drop it."


def _beyond_squares(series: pd.Series[Any]) -> str | None:
    if series.dtype.kind != "f" or not bool((series.abs() > MAX_SQUARABLE).any()):
        return None
    return f"holds values beyond {MAX_SQUARABLE:g}, whose squares fit no number: scaling it fails."


def _text_trouble(series: pd.Series[Any]) -> str | None:
    if series.dtype.kind in "fib":
        return None
    present = series.dropna()
    numeric = float(pd.to_numeric(present, errors="coerce").notna().mean())
    if NUMERIC_SHARE <= numeric < 1:
        odd = present[pd.to_numeric(present, errors="coerce").isna()].iloc[0]
        return f"is text, but {numeric:.0%} of it are numbers; is {odd!r} a missing value?"
    distinct = present.nunique()
    if distinct > MAX_DISTINCT_TEXTS and distinct > len(present) / 2:
        return f"holds {distinct} different texts in {len(present)} rows; if it is an id, drop it."
    return None

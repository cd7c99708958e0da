"""Cleaning of a table: names, types and targets, and the checks that everything later relies on."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from tidemill.errors import DataError
from tidemill.project import Project, Task
from tidemill.signature import Kind
from tidemill.steps.data import checks
from tidemill.steps.data.checks import DataWarning
from tidemill.steps.data.column_kinds import as_kind, infer_kind
from tidemill.steps.data.date_columns import in_seconds, typed_formats
from tidemill.steps.data.task import convert_target, is_numeric, resolve_task

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CleanedData:
    """Rows under the project's column names: each column of one kind, each row with a target.

    Attributes:
        inputs: The model's columns; constant columns stay in `frame` but are not among them.
        dates: The formats of the inputs that are dates or times.
        kinds: The kinds of the inputs, also if missing values convert integers and booleans to
            float64.
    """

    frame: pd.DataFrame
    inputs: tuple[str, ...]
    kinds: Mapping[str, Kind]
    task: Task
    warnings: tuple[DataWarning, ...]
    dates: Mapping[str, str] = field(default_factory=dict)


def clean(
    frame: pd.DataFrame, project: Project, *, extra_rows: pd.DataFrame | None = None
) -> CleanedData:
    """Rename and drop columns, convert each to its kind, and check the table.

    Args:
        extra_rows: Additional rows under the project's column names; appended at the end.

    Raises:
        DataError: The target is missing or cannot be used, columns have the same name, or
            mixed or infinite values, or there are too few rows in total or of a class.
    """
    frame = _named(frame, project)
    _require(project.target, frame, "target", "The target")
    dates = {} if project.tensor else _dates(frame, project)
    frame = in_seconds(frame, dates)
    if extra_rows is not None:
        frame = _joined(frame, _extra_in_seconds(extra_rows, dates))
    numbers = _category_codes(frame, project)
    frame, dropped = _with_target(frame, project)
    kinds = {} if project.tensor else {name: infer_kind(frame[name]) for name in frame.columns}
    frame = _in_kinds(frame, project)
    checks.check_finite(frame)
    frame = frame.assign(**{project.target: convert_target(frame[project.target], project)})
    task = resolve_task(frame[project.target], project)
    checks.check_usable(frame, project, task)
    inputs, constant = _inputs(frame, project)
    doubtful = () if project.tensor else checks.find_warnings(frame, inputs, project.target, task)
    warnings = (*dropped, *numbers, *constant, *doubtful)
    for warning in warnings:
        logger.warning("%s: %s", project.name, warning.text)
    kinds |= dict.fromkeys(dates, "datetime")
    of_inputs = {name: kinds[name] for name in inputs if name in kinds}
    dates = {name: form for name, form in dates.items() if name in inputs}
    return CleanedData(frame, inputs, of_inputs, task, warnings, dates)


def _dates(frame: pd.DataFrame, project: Project) -> dict[str, str]:
    """The formats of the date columns: those of a type for dates, and those the project states."""
    kept = {name: form for name, form in project.dates.items() if name not in project.drop}
    for name in kept:
        _require(name, frame, "dates", "The date column")
    typed = typed_formats(frame.drop(columns=project.target))
    return {**typed, **kept}


def _extra_in_seconds(extra: pd.DataFrame, dates: Mapping[str, str]) -> pd.DataFrame:
    """Recorded rows have their dates in seconds already; others are converted."""
    recorded = {name for name in dates if name in extra and extra[name].dtype.kind == "f"}
    others = {n: form for n, form in dates.items() if n in extra and n not in recorded}
    return in_seconds(extra, others)


def _named(frame: pd.DataFrame, project: Project) -> pd.DataFrame:
    """The frame under the project's column names, without the dropped columns."""
    for name in project.rename:
        _require(name, frame, "rename", "The renamed column")
    frame = frame.rename(columns=dict(project.rename))
    frame = frame.set_axis([str(name) for name in frame.columns], axis="columns")
    repeated = frame.columns[frame.columns.duplicated()].unique()
    if len(repeated):
        raise DataError(
            f"Several columns are named {', '.join(repr(name) for name in repeated)}.",
            field=str(repeated[0]),
            remedy="Rename or drop them in the data function.",
        )
    for name in project.drop:
        _require(name, frame, "drop", "The dropped column")
    return frame.drop(columns=list(project.drop)).reset_index(drop=True)


def _require(name: str, frame: pd.DataFrame, field: str, what: str) -> None:
    if name in frame.columns:
        return
    names = [str(column) for column in frame.columns]
    folded = {column.casefold(): column for column in names}
    near = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
    shown = [folded[match] for match in near] or names[:10]
    raise DataError(
        f"{what} '{name}' is not in the data.",
        field=field,
        expected=f"one of {', '.join(shown)}",
        remedy=f"Did you mean '{shown[0]}'?" if near else f"Columns: {', '.join(shown)}.",
    )


def _joined(frame: pd.DataFrame, extra: pd.DataFrame) -> pd.DataFrame:
    """The rows of both tables, with the first one's columns, and its types if they fit."""
    missing = [name for name in frame.columns if name not in extra.columns]
    if missing:
        raise DataError(f"The extra rows lack {', '.join(missing)}.", field=missing[0])
    alike = {name: _like(extra[name], frame[name]) for name in frame.columns}
    return pd.concat([frame, pd.DataFrame(alike)], ignore_index=True)


def _like(series: pd.Series[Any], other: pd.Series[Any]) -> pd.Series[Any]:
    """The column in the other's type, unless that changes a value."""
    try:
        cast = series.astype(other.dtype)
    except (TypeError, ValueError):
        return series
    return cast if cast.astype(object).equals(series.astype(object)) else series


def _category_codes(frame: pd.DataFrame, project: Project) -> list[DataWarning]:
    coded = [
        name
        for name in frame.columns
        if isinstance(frame[name].dtype, pd.CategoricalDtype)
        and is_numeric(pd.Series(frame[name].cat.categories))
        and name != project.target
    ]
    text = "Column '{}' has numeric categories; it is used as a number."
    return [DataWarning(text.format(name), name) for name in coded]


def _with_target(frame: pd.DataFrame, project: Project) -> tuple[pd.DataFrame, list[DataWarning]]:
    """The rows with a target, and a warning if others were left out."""
    known = frame[project.target].notna()
    if known.all():
        return frame, []
    if not known.any():
        raise DataError(
            f"The target '{project.target}' is missing in every row.", field=project.target
        )
    text = f"{int((~known).sum())} rows without a target were left out."
    return frame[known].reset_index(drop=True), [DataWarning(text, project.target)]


def _in_kinds(frame: pd.DataFrame, project: Project) -> pd.DataFrame:
    """Convert every column to its kind; a tensor's inputs only need to be numeric."""
    target = as_kind(frame[project.target])
    if project.tensor is None:
        return pd.DataFrame({name: as_kind(frame[name]) for name in frame.columns})
    _check_tensor(frame.drop(columns=project.target), project)
    return frame.assign(**{project.target: target})


def _check_tensor(inputs: pd.DataFrame, project: Project) -> None:
    assert project.tensor is not None
    if inputs.shape[1] != project.tensor.size:
        raise DataError(
            f"The tensor '{project.tensor.name}' of shape {project.tensor.shape} takes "
            f"{project.tensor.size} columns; the data have {inputs.shape[1]}.",
            field=project.tensor.name,
        )
    bad = [name for name in inputs if inputs[name].dtype.kind not in "fiub"]
    if bad or bool(inputs.isna().to_numpy().any()):
        name = bad[0] if bad else inputs.columns[inputs.isna().any()][0]
        raise DataError(
            f"Column '{name}' has missing or non-numeric values, which a tensor cannot have.",
            field=str(name),
        )


def _inputs(frame: pd.DataFrame, project: Project) -> tuple[tuple[str, ...], list[DataWarning]]:
    """The input columns, and a warning for every constant column."""
    names = [name for name in frame.columns if name != project.target]
    if project.tensor is not None:
        return tuple(names), []
    constant = [name for name in names if frame[name].nunique(dropna=False) < 2]
    inputs = tuple(name for name in names if name not in constant)
    if not inputs:
        raise DataError("No input columns are left.", field="data")
    text = "Column '{}' has only one value; it is left out."
    return inputs, [DataWarning(text.format(name), name) for name in constant]

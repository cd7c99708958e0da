"""Inference of a new project's settings from its table: the target, the task, what to drop."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from tidemill.errors import ProjectError
from tidemill.project import Task
from tidemill.steps.data.column_kinds import as_kind, infer_kind
from tidemill.steps.data.date_formats import date_formats
from tidemill.steps.data.default_candidates import TableSize
from tidemill.steps.data.task import infer_task

USUAL_TARGETS = ("target", "label", "class", "outcome", "y")
MAX_DISTINCT_TEXTS = 20
_ID_NAME = re.compile(r"(^|[^a-z])(id|uuid|guid|index|unnamed: 0)$|[a-z]I[dD]$")


@dataclass(frozen=True)
class ColumnSpec:
    """What was found about a column, and what it is used for: "input", "target" or why not."""

    name: str
    kind: str
    missing: int
    distinct: int
    use: str


@dataclass(frozen=True)
class TableSpec:
    """A table, as a project file describes it.

    Attributes:
        path: The CSV file, relative to the project.
        options: Options that `pandas.read_csv` needs for it.
        drop: Columns to leave out, with the reason for each.
        dates: The formats of columns that hold dates or times.
        row: One row of inputs, as in a request.
        columns: Every column, in order.
        size: What the choice of candidates depends on.
    """

    path: str
    target: str
    task: Task
    options: Mapping[str, Any]
    drop: Mapping[str, str]
    row: Mapping[str, Any]
    size: TableSize
    dates: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[ColumnSpec, ...] = ()


def infer_table_spec(
    frame: pd.DataFrame,
    path: str,
    *,
    target: str | None = None,
    task: Task | None = None,
    options: Mapping[str, Any],
) -> TableSpec:
    """Infer the settings for a table.

    Args:
        target: The column to predict; None uses a column with a common name (target, label, class,
            outcome, y), otherwise the last column.
        task: None infers it from the target's values.

    Raises:
        ProjectError: There is no such target, or no column to predict it from.
    """
    columns = [str(name) for name in frame.columns]
    frame = frame.set_axis(columns, axis="columns")
    target = _target(columns, target)
    formats = {name: date_formats(frame[name]) for name in columns if name != target}
    drop = {
        name: reason
        for name, fitting in formats.items()
        if (reason := _reason_to_drop(frame[name], fitting)) is not None
    }
    inputs = [name for name in columns if name != target and name not in drop]
    if not inputs:
        raise ProjectError(
            f"The table has no columns to predict '{target}' from.",
            field="drop" if drop else "data",
            expected="at least one column besides the target that is not an id",
        )
    known = frame[target].dropna()
    task = task or infer_task(as_kind(known))
    size = TableSize(len(known), known.nunique() if task == "classification" else 0)
    dates = {name: formats[name][0] for name in inputs if formats[name]}
    uses = {target: "target", **{name: f"left out: {reason}" for name, reason in drop.items()}}
    found = tuple(
        _column(frame[name], uses.get(name, "input"), dates.get(name)) for name in columns
    )
    row = _example(frame[inputs])
    return TableSpec(path, target, task, options, drop, row, size, dates, found)


def _column(series: pd.Series[Any], use: str, date: str | None) -> ColumnSpec:
    kind = f"datetime, {date}" if date else infer_kind(series)
    missing, distinct = int(series.isna().sum()), int(series.nunique())
    return ColumnSpec(str(series.name), kind, missing, distinct, use)


def _target(columns: list[str], target: str | None) -> str:
    if target is None:
        usual = [name for name in columns if name.casefold() in USUAL_TARGETS]
        return usual[-1] if usual else columns[-1]
    if target in columns:
        return target
    near = difflib.get_close_matches(target, columns, n=1)
    raise ProjectError(
        f"The table has no column '{target}'.",
        field="target",
        expected=f"one of {', '.join(columns[:20])}",
        remedy=f"Did you mean '{near[0]}'?" if near else None,
    )


def _reason_to_drop(series: pd.Series[Any], formats: Sequence[str]) -> str | None:
    """Why a column identifies rows instead of describing them; None if it does not.

    Args:
        formats: The formats of dates that fit all values.
    """
    present = series.dropna()
    if present.empty:
        return "empty"
    if formats:
        either = " or ".join(json.dumps(form) for form in formats)
        return None if len(formats) == 1 else f"dates of the format {either}: state it in `dates`"
    distinct = present.nunique()
    whole = pd.api.types.is_integer_dtype(series.dtype)
    text = not pd.api.types.is_numeric_dtype(series.dtype)
    if whole and len(series) > 2 and bool((series.diff().iloc[1:] == 1).all()):
        return "counts the rows"
    if distinct == len(series) and (whole or text) and _ID_NAME.search(_spaced(str(series.name))):
        return "an id"
    if text and distinct > MAX_DISTINCT_TEXTS and distinct > len(present) / 2:
        return "nearly as many distinct texts as rows"
    return None


def _spaced(name: str) -> str:
    """Split camel case, so that `customerId`, `CustomerID` and `customer_id` end in a word "id"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _example(inputs: pd.DataFrame) -> dict[str, Any]:
    whole = inputs.dropna()
    first = whole.iloc[[0]] if len(whole) else inputs.iloc[[0]]
    row: dict[str, Any] = json.loads(first.to_json(orient="records", date_format="iso"))[0]
    return row


def sample_customers(rows: int = 600, seed: int = 7) -> pd.DataFrame:
    """Generate a table of customers with the target `churned` ("yes" or "no").

    It has numbers, texts, booleans and missing values. Churn depends on the plan, the months, the
    support calls and automatic payment, with noise: a good model has an accuracy of about 5/6.
    """
    rng = np.random.default_rng(seed)
    plan = rng.choice(["basic", "plus", "pro"], rows, p=[0.5, 0.3, 0.2])
    months = rng.integers(1, 61, rows)
    calls = rng.poisson(2.0, rows)
    fee = np.round(
        rng.normal(20.0, 4.0, rows) + 12.0 * (plan == "plus") + 30.0 * (plan == "pro"), 2
    )
    autopay = rng.random(rows) < 0.6
    logit = 1.5 * (plan == "basic") - 0.08 * (months - 24) + 0.9 * (calls - 2) - 1.2 * autopay
    churned = rng.random(rows) < 1.0 / (1.0 + np.exp(-2.0 * logit))
    return pd.DataFrame(
        {
            "customer_id": [f"C{number:05d}" for number in range(1, rows + 1)],
            "age": pd.Series(rng.integers(18, 80, rows))
            .where(rng.random(rows) > 0.08)
            .astype("Int64"),
            "region": pd.Series(rng.choice(["north", "south", "east", "west"], rows)).where(
                rng.random(rows) > 0.05
            ),
            "plan": plan,
            "monthly_fee": pd.Series(fee).where(rng.random(rows) > 0.05),
            "months": months,
            "support_calls": calls,
            "autopay": autopay,
            "churned": np.where(churned, "yes", "no"),
        }
    )

"""Set up a replay: the project with the warm-up as its data, and the rows to replay.

A replay takes minutes for months of data, so settings in units of time are removed: cooldown,
schedule, ages. Settings in rows are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tidemill.datetimes import shown
from tidemill.errors import DataError
from tidemill.loop.training.new_project import write_project
from tidemill.metrics import TASKS, row_metric
from tidemill.policies import Retraining
from tidemill.project import Project, csv, load_project
from tidemill.signature import Signature
from tidemill.steps.data.clean import clean
from tidemill.steps.data.csv_dialect import read_table
from tidemill.steps.data.prepare import target_array
from tidemill.steps.data.timestamps import parse_timestamps

WARMUP_FILE, PROJECT_FILE = "warmup.csv", "project.py"
FEWEST_LIVE = 100


@dataclass(frozen=True)
class ReplaySetup:
    """The project, its rows in order of time, and where the live ones begin.

    Attributes:
        frame: Cleaned rows with the target.
        truth: [rows] the labels or values.
        warmup: Number of rows before the live ones.
    """

    project: Project
    reference: Path
    frame: pd.DataFrame
    truth: npt.NDArray[Any]
    warmup: int


def replay_project(reference: str, folder: str) -> Project:
    """Load the project at `reference` with the warm-up in `folder` as its data."""
    project = load_project(reference)
    retrain = _without_waiting(project.retrain)
    return replace(
        project,
        data=csv(str(Path(folder, WARMUP_FILE))),
        drop=project.drop,
        retrain=retrain,
        drift=replace(project.drift, age=None),
        decay=replace(project.decay, age=None),
        contest=replace(project.contest, age=None),
        unknown_categories="refuse" if project.tensor else "accept",
        processed=None,
    )


def _without_waiting(policy: Retraining) -> Retraining:
    causes = tuple(cause for cause in policy.on if cause != "schedule")
    return replace(policy, on=causes, schedule=None, cooldown=0)


def prepare_replay(
    file: Path,
    folder: Path,
    *,
    project: str | None = None,
    target: str | None = None,
    time: str | None = None,
    warmup: int | None = None,
) -> ReplaySetup:
    """Read a labelled table and write the project of its replay.

    Args:
        file: A CSV file with a header.
        folder: Where the project is written; new or empty.
        project: A project file or `gallery:NAME`; None makes one for the table, as `init` does, but
            for the metric: it decides by what a replay reports.
        target: The column to predict, without a project.
        time: The column to order the rows by; None keeps their order.
        warmup: Rows to train on first; None takes a tenth, at least 500 and at most 5,000.

    Raises:
        DataError: The table cannot be used, or has too few rows.
        ProjectError: There is no such project, or it cannot be made for this table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = _in_time(_read(file), time)
    if project is None:
        made = folder / "source" / "replayed"
        made.parent.mkdir(exist_ok=True)
        ordered = folder / "source" / "rows.csv"
        dropped = table.drop(columns=[time]) if time is not None else table
        dropped.to_csv(ordered, index=False)
        metrics: dict[str, str] = {task: row_metric(task) for task in TASKS}
        write_project(made, source=str(ordered), target=target, metrics=metrics)
        project, table = str(made / PROJECT_FILE), dropped
    own = load_project(project)
    table = _labelled(table, own)
    count = warmup or min(max(len(table) // 10, 500), 5000)
    if len(table) - count < FEWEST_LIVE:
        raise DataError(
            f"{file.name} has {len(table):,} labelled rows; after a warm-up of {count:,} too few "
            f"are left to play.",
            field="warmup",
            expected=f"at most {max(len(table) - FEWEST_LIVE, 0):,}",
        )
    table.head(count).to_csv(folder / WARMUP_FILE, index=False)
    reference = folder / PROJECT_FILE
    where = project if project.startswith("gallery:") else str(Path(project).resolve())
    reference.write_text(
        '"""Written by `tidemill replay`: a project with a table\'s first rows as its data."""\n'
        "from tidemill.loop.replay.setup import replay_project\n\n"
        f"project = replay_project({where!r}, {str(folder.resolve())!r})\n"
    )
    loaded = load_project(reference)
    cleaned = clean(table, loaded)
    return ReplaySetup(loaded, reference, cleaned.frame, target_array(cleaned.frame, loaded), count)


def _read(file: Path) -> pd.DataFrame:
    if not file.is_file():
        raise DataError(f"There is no file {file}.", field="file")
    return read_table(file)[0]


def _in_time(table: pd.DataFrame, column: str | None) -> pd.DataFrame:
    """The rows ordered by a column of numbers or dates."""
    if column is None:
        return table
    if column not in table.columns:
        raise DataError(
            f"There is no column '{column}' to order by.",
            field="time",
            expected=f"one of {', '.join(map(str, table.columns[:20]))}",
        )
    moments = table[column]
    if not pd.api.types.is_numeric_dtype(moments.dtype):
        moments = parse_timestamps(moments, column)
    if moments.isna().any():
        raise DataError(
            f"{int(moments.isna().sum())} values of '{column}' are not times.",
            field="time",
            expected="numbers, or dates such as 2024-05-31 or 2024-05-31T12:00:00",
        )
    return table.iloc[np.argsort(moments.to_numpy(), kind="stable")].reset_index(drop=True)


def _labelled(table: pd.DataFrame, project: Project) -> pd.DataFrame:
    names = {new: old for old, new in project.rename.items()}
    column = names.get(project.target, project.target)
    if column not in table.columns:
        raise DataError(
            f"The table has no column '{column}', which the project predicts.", field=column
        )
    return table[table[column].notna()].reset_index(drop=True)


def requests_of(frame: pd.DataFrame, signature: Signature) -> list[dict[str, Any]]:
    """Return rows as a client sends them: by column name, null where missing."""
    if signature.tensor is not None:
        flat = frame.drop(columns=signature.target, errors="ignore").to_numpy(dtype=float)
        return [{signature.tensor.name: row} for row in flat.tolist()]
    kinds: dict[str, Any] = {"number": float, "integer": int, "boolean": bool, "text": str}
    columns = {}
    for column in signature.columns:
        form, series = column.format, frame[column.name]
        make = partial(shown, form=form) if form else kinds[column.kind]
        pairs = zip(series.isna().tolist(), series.astype(object).tolist(), strict=True)
        columns[column.name] = [None if gap else make(value) for gap, value in pairs]
    names = list(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]

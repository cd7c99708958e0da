"""The tables: where each comes from, its target, and its training and test rows as CSV files.

A table's cells are passed on as they are in its file, as text: reading them is a part of the task.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

TEST_SHARE = 0.25

Task = Literal["binary", "multiclass", "regression"]


@dataclass(frozen=True)
class Table:
    """A table and how to split it.

    Attributes:
        file: Below the folder of tables; None for one that scikit-learn brings.
        header: Whether the file's first row holds names; otherwise columns are named c1, c2, ...
        target: A name; None is the last column.
        ordered: The test rows are the last ones instead of random ones.
        drop: Columns that nobody would know when predicting.
    """

    name: str
    task: Task
    file: str | None = None
    header: bool = False
    target: str | None = None
    quote: str = '"'
    ordered: bool = False
    drop: tuple[str, ...] = ()
    load: Callable[[], pd.DataFrame] | None = None


def _sklearn(name: str) -> Callable[[], pd.DataFrame]:
    def load() -> pd.DataFrame:
        from sklearn import datasets

        bunch = getattr(datasets, name)(as_frame=True)
        return pd.DataFrame(bunch.frame)

    return load


TABLES = (
    Table("abalone", "regression", "abalone.csv"),
    Table("auto-imports", "regression", "auto_imports.csv"),
    Table("breast-cancer", "binary", "breast-cancer.csv", quote="'"),
    Table("ecoli", "multiclass", "ecoli.csv"),
    Table("german", "binary", "german.csv"),
    Table("glass", "multiclass", "glass.csv"),
    Table("haberman", "binary", "haberman.csv"),
    Table("horse-colic", "binary", "horse-colic.csv", target="c24"),
    Table("ionosphere", "binary", "ionosphere.csv"),
    Table("mammography", "binary", "mammography.csv", quote="'"),
    Table("mpg", "regression", "mpg.csv", header=True, target="mpg"),
    Table("oil-spill", "binary", "oil-spill.csv"),
    Table("penguins", "multiclass", "penguins.csv", header=True, target="island"),
    Table("phoneme", "binary", "phoneme.csv"),
    Table("pima", "binary", "pima-indians-diabetes.csv"),
    Table("sonar", "binary", "sonar.csv"),
    Table(
        "taxis",
        "regression",
        "taxis.csv",
        header=True,
        target="tip_amount",
        drop=("total_amount",),
    ),
    Table("temperatures", "regression", "daily-min-temperatures.csv", header=True, ordered=True),
    Table("seaice", "regression", "seaice.csv", header=True, ordered=True),
    Table("tips", "regression", "tips.csv", header=True, target="tip"),
    Table("titanic", "binary", "titanic.csv", header=True, target="survived"),
    Table("weather", "binary", "noaa-weather.csv", header=True, ordered=True),
    Table("wine-quality", "regression", "winequality-white.csv"),
    Table("diabetes", "regression", load=_sklearn("load_diabetes")),
    Table("digits", "multiclass", load=_sklearn("load_digits")),
    Table("wine", "multiclass", load=_sklearn("load_wine")),
    Table("california", "regression", load=_sklearn("fetch_california_housing")),
)


def available(folder: Path | None) -> list[Table]:
    """The tables that can be loaded here."""
    return [t for t in TABLES if t.file is None or (folder and (folder / t.file).is_file())]


def write_split(table: Table, source: Path | None, folder: Path) -> dict[str, Any]:
    """Write `train.csv`, `test.csv` (without the target) and `truth.csv`; return the facts."""
    frame = _read(table, source).drop(columns=list(table.drop))
    target = table.target or str(frame.columns[-1])
    frame = frame[frame[target].str.strip() != ""]
    held_out = _held_out(frame[target], table)
    train, test = frame[~held_out], frame[held_out]
    if table.task != "regression":  # a class without a training row cannot be learned
        test = test[test[target].isin(set(train[target]))]
    folder.mkdir(parents=True, exist_ok=True)
    train.to_csv(folder / "train.csv", index=False)
    test.drop(columns=target).to_csv(folder / "test.csv", index=False)
    test[[target]].to_csv(folder / "truth.csv", index=False)
    facts = {
        "table": table.name,
        "task": table.task,
        "target": target,
        "train_rows": len(train),
        "test_rows": len(test),
        "columns": frame.shape[1] - 1,
        "classes": sorted(set(frame[target])) if table.task != "regression" else [],
    }
    (folder / "facts.json").write_text(json.dumps(facts))
    return facts


def _read(table: Table, source: Path | None) -> pd.DataFrame:
    if table.load is not None:
        text = table.load().to_csv(index=False)
        return _frame(list(csv.reader(io.StringIO(text))), header=True)
    if source is None or table.file is None:
        raise FileNotFoundError(f"{table.name} needs --tables")
    text = (source / table.file).read_text(encoding="utf-8-sig")
    rows = [row for row in csv.reader(io.StringIO(text), quotechar=table.quote) if row]
    return _frame(rows, header=table.header)


def _frame(rows: list[list[str]], *, header: bool) -> pd.DataFrame:
    names = rows[0] if header else [f"c{i + 1}" for i in range(len(rows[0]))]
    body = rows[1:] if header else rows
    width = Counter(map(len, body)).most_common(1)[0][0]
    return pd.DataFrame([row for row in body if len(row) == width], columns=names, dtype=str)


def _held_out(target: pd.Series[str], table: Table) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows are test rows; a quarter of every class."""
    chosen = np.zeros(len(target), dtype=bool)
    if table.ordered:
        chosen[int(len(target) * (1 - TEST_SHARE)) :] = True
        return chosen
    random = np.random.default_rng(7)
    classes = target if table.task != "regression" else pd.Series("", index=target.index)
    for _, rows in pd.Series(np.arange(len(target))).groupby(classes.to_numpy()):
        picked = random.permutation(rows.to_numpy())[: round(len(rows) * TEST_SHARE)]
        chosen[picked] = True
    return chosen

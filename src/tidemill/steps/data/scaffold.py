"""What a new project says about a table nobody has described: target, task, what to drop."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tidemill.errors import ProjectError
from tidemill.project import Task
from tidemill.steps.data.column_kinds import as_kind
from tidemill.steps.data.task import infer_task

USUAL_TARGETS = ("target", "label", "class", "outcome", "y")
MAX_DISTINCT_TEXTS = 20
_ID_NAME = re.compile(r"(^|[^a-z])(id|uuid|guid|index|unnamed: 0)$|[a-z]I[dD]$")


@dataclass(frozen=True)
class TableSpec:
    """A table as a project describes it.

    Args:
        path: The CSV file, relative to the project.
        options: What `pandas.read_csv` needs to be told about it.
        drop: Columns to leave out, and why.
        row: One row of inputs, as a request holds it.
    """

    path: str
    target: str
    task: Task
    options: Mapping[str, str]
    drop: Mapping[str, str]
    row: Mapping[str, Any]


def infer_table_spec(
    frame: pd.DataFrame, path: str, *, target: str | None = None, options: Mapping[str, str]
) -> TableSpec:
    """Guess how a table is meant.

    The target is the one given, else a column with a usual name, else the last column.

    Raises:
        ProjectError: There is no such target, or nothing is left to learn from.
    """
    columns = [str(name) for name in frame.columns]
    frame = frame.set_axis(columns, axis="columns")
    target = _target(columns, target)
    drop = {
        name: reason
        for name in columns
        if name != target and (reason := _reason_to_drop(frame[name])) is not None
    }
    inputs = [name for name in columns if name != target and name not in drop]
    if not inputs:
        raise ProjectError(
            f"Nothing in the table is left to predict '{target}' from.",
            field="drop" if drop else "data",
            expected="at least one column besides the target that is not an id",
        )
    task = infer_task(as_kind(frame[target].dropna()))
    return TableSpec(path, target, task, options, drop, _example(frame[inputs]))


def _target(columns: list[str], wanted: str | None) -> str:
    if wanted is None:
        usual = [name for name in columns if name.casefold() in USUAL_TARGETS]
        return usual[-1] if usual else columns[-1]
    if wanted in columns:
        return wanted
    near = difflib.get_close_matches(wanted, columns, n=1)
    raise ProjectError(
        f"The table has no column '{wanted}'.",
        field="target",
        expected=f"one of {', '.join(columns[:20])}",
        remedy=f"Did you mean '{near[0]}'?" if near else None,
    )


def _reason_to_drop(series: pd.Series[Any]) -> str | None:
    """Why a column tells one row from another instead of one kind of row from another."""
    present = series.dropna()
    if present.empty:
        return "holds nothing"
    distinct = present.nunique()
    whole = pd.api.types.is_integer_dtype(series.dtype)
    text = not pd.api.types.is_numeric_dtype(series.dtype)
    if whole and len(series) > 2 and bool((series.diff().iloc[1:] == 1).all()):
        return "counts the rows"
    if distinct == len(series) and (whole or text) and _ID_NAME.search(_spaced(str(series.name))):
        return "an id"
    if text and distinct > MAX_DISTINCT_TEXTS and distinct > len(present) / 2:
        return "nearly as many different texts as rows"
    return None


def _spaced(name: str) -> str:
    """A name in which `customerId`, `CustomerID` and `customer_id` all end in a word of its own."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _example(inputs: pd.DataFrame) -> dict[str, Any]:
    whole = inputs.dropna()
    first = whole.iloc[[0]] if len(whole) else inputs.iloc[[0]]
    row: dict[str, Any] = json.loads(first.to_json(orient="records"))[0]
    return row


_ESTIMATORS = {
    "classification": (
        "from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier\n"
        "from sklearn.linear_model import LogisticRegression\n",
        """\
        Candidate(
            "logistic_regression",
            LogisticRegression,
            {"max_iter": 1000},
            search={"C": [0.1, 1.0, 10.0]},  # one run for each
        ),
        Candidate(
            "random_forest",
            RandomForestClassifier,
            {"n_estimators": 200, "min_samples_leaf": 2},
        ),
        Candidate(
            "gradient_boosting",
            HistGradientBoostingClassifier,
            search={"learning_rate": [0.03, 0.1]},
        ),
""",
        "f1_score",
    ),
    "regression": (
        "from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor\n"
        "from sklearn.linear_model import Ridge\n",
        """\
        Candidate(
            "ridge",
            Ridge,
            search={"alpha": [0.1, 1.0, 10.0]},  # one run for each
        ),
        Candidate(
            "random_forest",
            RandomForestRegressor,
            {"n_estimators": 100, "min_samples_leaf": 5},
        ),
        Candidate(
            "gradient_boosting",
            HistGradientBoostingRegressor,
            search={"learning_rate": [0.03, 0.1]},
        ),
""",
        "rmse",
    ),
}

_PROJECT = '''\
"""What to learn, and from what: `tidemill train` reads this file."""

{imports}
from tidemill import Candidate, Gate, Project, csv

project = Project(
    name={name},
    # A function without arguments that returns a pandas DataFrame can stand here as well.
    data=csv({data}),
    target={target},
    task="{task}",
{drop}\
    # Each is trained and recorded; the best of all is registered as a new version.
    candidates=[
{candidates}\
    ],
    # What a version must show, on rows it has not seen, before it is promoted. It may also set
    # bounds: minimum={{{bound}}}.
    gate=Gate(metric="{metric}"),
    # "accept" lets the model see texts that were not in the table; "refuse" answers 422.
    unknown_categories="refuse",
)
'''


def render_project(name: str, table: TableSpec, metric: str | None = None) -> str:
    """The project file for a table, as ordinary Python.

    Args:
        metric: The gate's; None takes the usual one of the task.
    """
    imports, candidates, usual = _ESTIMATORS[table.task]
    arguments = [_quoted(table.path), *(f"{k}={_quoted(v)}" for k, v in table.options.items())]
    return _PROJECT.format(
        name=_quoted(name),
        data=", ".join(arguments),
        target=_quoted(table.target),
        task=table.task,
        imports=imports,
        drop=_drop_text(table.drop),
        candidates=candidates,
        metric=metric or usual,
        bound='"f1_score": 0.8' if table.task == "classification" else '"r2": 0.5',
    )


def _drop_text(drop: Mapping[str, str]) -> str:
    if not drop:
        return "    drop=[],  # columns to leave out: ids, and what is only known afterwards\n"
    lines = [f"        {_quoted(name)},  # {reason}\n" for name, reason in drop.items()]
    return (
        "    # Left out: a guess, change it where it is wrong.\n    drop=[\n"
        + "".join(lines)
        + "    ],\n"
    )


def _quoted(text: str) -> str:
    """A Python literal in double quotes."""
    return json.dumps(text, ensure_ascii=False)


_README = """\
# {name}

`project.py` says what to train; `data/` holds the rows.

```console
tidemill train                # try every candidate, register the best
tidemill promote {name}
tidemill serve {name}
```

`serve` stays. It prints a request to paste; from another terminal in this folder:

```console
{ask}
```

`tidemill models` lists the versions, `tidemill rollback {name}` goes back to the one before, and
`tidemill predict {name} rows.csv -o scored.csv` scores a file.
"""


def render_readme(name: str, row: Mapping[str, Any] | None) -> str:
    """The commands that come next, with a request that works when pasted."""
    key = '-H "X-API-Key: $(cat .tidemill/key)"'
    base = "curl -s http://127.0.0.1:8000"
    ask = f"{base}/schema {key}"
    if row is not None:
        body = json.dumps(dict(row), ensure_ascii=False).replace("'", "'\\''")
        form = "-H 'Content-Type: application/json'"
        ask = f"{base}/predict {key} \\\n  {form} \\\n  -d '{body}'"
    return _README.format(name=name, ask=ask)

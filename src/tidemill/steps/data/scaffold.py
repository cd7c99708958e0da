"""The files of a new project, rendered from a description of its table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tidemill.steps.data.table_spec import TableSpec

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

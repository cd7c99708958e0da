"""The files of a new project, rendered from the description of its table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tidemill.steps.data.default_candidates import render_candidates
from tidemill.steps.data.table_spec import TableSpec

_METRICS = {"classification": "f1_score", "regression": "rmse"}

_PROJECT = '''\
"""What to learn, and from what: `tidemill train` reads this file."""

{imports}
from tidemill import Candidate, {drift_import}Gate, Project, csv

{estimators}
project = Project(
    name={name},
    # Also possible: a function without arguments that returns a pandas DataFrame.
    data=csv({data}),
    target={target},
    task="{task}",
{drop}\
{dates}\
    # All are trained and tracked; the best is registered as a new version.
    candidates=[
{candidates}\
    ],
    # The evidence on held-out rows that a version needs to be promoted. It can also require
    # minimum values: minimum={{{bound}}}.
    gate=Gate(metric="{metric}"),
    # For texts that are not in the table: "refuse" responds with 422, "accept" predicts anyway.
    unknown_categories="refuse",
)
'''


def render_project(name: str, table: TableSpec, metric: str | None = None) -> str:
    """Render the project file for a table.

    Args:
        metric: The gate's metric; None uses the task's default.
    """
    candidates = render_candidates(table.task, table.size)
    arguments = [_literal(table.path), *(f"{k}={_literal(v)}" for k, v in table.options.items())]
    return _PROJECT.format(
        name=_literal(name),
        data=", ".join(arguments),
        target=_literal(table.target),
        task=table.task,
        imports=candidates.imports,
        estimators=candidates.estimators,
        drop=_drop_text(table.drop),
        dates=_dates_text(table.dates),
        drift_import="Drift, " if table.dates else "",
        candidates=candidates.elements,
        metric=metric or _METRICS[table.task],
        bound='"f1_score": 0.8' if table.task == "classification" else '"r2": 0.5',
    )


def _drop_text(drop: Mapping[str, str]) -> str:
    if not drop:
        return "    drop=[],  # columns to leave out: ids, and values known only afterwards\n"
    lines = [f"        {_literal(name)},  # {reason}\n" for name, reason in drop.items()]
    return (
        "    # Left out automatically: change this if it is wrong.\n    drop=[\n"
        + "".join(lines)
        + "    ],\n"
    )


def _dates_text(dates: Mapping[str, str]) -> str:
    if not dates:
        return ""
    lines = [f"        {_literal(name)}: {_literal(form)},\n" for name, form in dates.items()]
    ignored = "".join(f"{_literal(name)}, " for name in dates)
    return (
        "    # Dates and times, with the format that fits all rows: change it if it is wrong.\n"
        "    dates={\n" + "".join(lines) + "    },\n"
        "    # Time moves on, so that later dates alone are no drift.\n"
        f"    drift=Drift(ignore=({ignored.rstrip()})),\n"
    )


def _literal(value: Any) -> str:
    """A Python literal; texts are in double quotes."""
    return repr(value) if isinstance(value, int) else json.dumps(value, ensure_ascii=False)


_README = """\
# {name}

`project.py` defines what to train; `data/` contains the rows.

```console
tidemill train                # try every candidate, register the best
tidemill promote {name}
tidemill serve {name}
```

`serve` keeps running. Send a request from another terminal in this folder:

```console
{request}
```

`tidemill models` lists the versions, `tidemill rollback {name}` restores the previous one, and
`tidemill predict {name} rows.csv -o scored.csv` scores a file.
"""


def render_readme(name: str, row: Mapping[str, Any] | None) -> str:
    """Render the README: the next commands, and a request that works when pasted."""
    key = '-H "X-API-Key: $(cat .tidemill/key)"'
    base = "curl -s http://127.0.0.1:8000"
    request = f"{base}/schema {key}"
    if row is not None:
        body = json.dumps(dict(row), ensure_ascii=False).replace("'", "'\\''")
        form = "-H 'Content-Type: application/json'"
        request = f"{base}/predict {key} \\\n  {form} \\\n  -d '{body}'"
    return _README.format(name=name, request=request)

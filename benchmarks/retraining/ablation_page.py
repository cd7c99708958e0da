"""The report of the ablation study: one table, each mechanism by family of streams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

HERE = Path(__file__).parent
FAMILIES = ("abrupt", "gradual", "recurring", "covariate", "none", "wobble")
FULL, REFERENCE = "nothing", "retraining"

#: A change is shown in bold when its interval is on one side of this many percent.
SHOWN = 0.2

Results = dict[str, Any]
#: By stream, the changes of its replicates.
Changes = dict[str, list[float]]


def markdown(done: Results) -> str:
    """The whole page; its rows are the policies of the most complete run, in that order."""
    policies = list(max(done.values(), key=len))
    notes = (HERE / "ablation_notes.md").read_text()
    return notes.replace("{table}", table(done, policies))


def table(done: Results, policies: list[str]) -> str:
    """A row for each policy, a column for each family and each real stream."""
    generated, real = _names(done)
    columns: dict[str, list[str]] = {"all generated": generated}
    for family in FAMILIES:
        columns[family] = [name for name in generated if name.startswith(family)]
    columns |= {"all real": real} | {name: [name] for name in real}
    columns = {title: names for title, names in columns.items() if names}
    lines = ["| left out | " + " | ".join([*columns, "fits, %"]) + " |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for policy in policies:
        if policy != FULL:
            cells = [_cell(done, policy, names) for names in columns.values()]
            fits = "" if policy == REFERENCE else _fits(done, policy)
            lines.append("| " + " | ".join([policy, *cells, fits]) + " |")
    return "\n".join(lines)


def interval(changes: Changes) -> tuple[float, float]:
    """The mean over streams, and half the width of its 95% interval (Student's t).

    Replicates are compared within their stream, so that streams which differ do not widen it.
    """
    streams = [np.array(values) for values in changes.values()]
    mean = float(np.mean([values.mean() for values in streams]))
    errors = [values.var(ddof=1) / values.size for values in streams if values.size > 1]
    degrees = sum(values.size - 1 for values in streams)
    if not degrees:
        return mean, float("nan")
    error = float(np.sqrt(np.sum(errors))) / len(streams)
    return mean, float(stats.t.ppf(0.975, degrees)) * error


def loss_change(run: Results, policy: str) -> float:
    """How much larger the loss is without it, in percent."""
    return 100 * (run[policy]["loss"] / run[FULL]["loss"] - 1)


def retraining_change(run: Results, policy: str) -> float:
    """How many more retrainings there are without it."""
    return run[policy]["retrainings"] - run[FULL]["retrainings"]


def changes(
    done: Results, policy: str, names: list[str], measure: Callable[[Results, str], float]
) -> Changes:
    """A measure of the policy by stream."""
    found: Changes = {}
    for key, run in done.items():
        name = key.rpartition("-")[0]
        if name in names and policy in run and FULL in run:
            found.setdefault(name, []).append(measure(run, policy))
    return found


def _names(done: Results) -> tuple[list[str], list[str]]:
    """The generated streams, and the real ones."""
    found = sorted({key.rpartition("-")[0] for key in done})
    generated = [name for name in found if name.partition("-")[0] in FAMILIES]
    return generated, [name for name in found if name not in generated]


def _cell(done: Results, policy: str, names: list[str]) -> str:
    losses = changes(done, policy, names, loss_change)
    retrainings = changes(done, policy, names, retraining_change)
    if not losses:
        return ""
    flat = [value for values in losses.values() for value in values]
    more = interval(retrainings)[0]
    if not any(flat) and not more:
        return "="
    mean, half = interval(losses)
    text = f"{_signed(mean)} ± {half:.1f}"
    if abs(mean) - half > SHOWN:
        text = f"**{text}**"
    return f"{text} ({_signed(more)})"


def _fits(done: Results, policy: str) -> str:
    runs = [run for run in done.values() if policy in run]
    if not runs:
        return ""
    more = sum(run[policy]["fits"] for run in runs) / sum(run[FULL]["fits"] for run in runs)
    return _signed(100 * (more - 1), 0)


def _signed(value: float, digits: int = 1) -> str:
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return f"{'+' if value > 0 else '−'}{text}"

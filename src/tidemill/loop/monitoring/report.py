"""One self-contained page for a window: what moved, how good the model is, what was decided.

Made from what checks left in the database, so that it can be made long after the rows are gone.
"""

from __future__ import annotations

import base64
import html
import io
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from matplotlib.figure import Figure

from tidemill.errors import NotFoundError
from tidemill.steps.decay.check import DecayReport
from tidemill.steps.drift.check import DriftReport, FeatureDrift
from tidemill.steps.plots.drift import plot_drift
from tidemill.steps.plots.timelines import plot_live_metric
from tidemill.stores.monitoring.results import MonitoringResults
from tidemill.stores.monitoring.triggers import Trigger, Triggers

PAGE = Path(__file__).parent / "report.html"

WINDOWS = 200
TRIGGERS = 25
COLOURS = {"steady": "good", "unknown": "plain", "data moved": "look"}


def write_report(
    watching: MonitoringResults,
    triggers: Triggers,
    model: str,
    path: Path,
    window: int | None = None,
) -> Path:
    """Write the page to a file; arguments and errors as of `make_report`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(make_report(watching, triggers, model, window), encoding="utf-8")
    return path


def make_report(
    watching: MonitoringResults, triggers: Triggers, model: str, window: int | None = None
) -> str:
    """The page, as HTML that loads nothing from anywhere.

    Args:
        window: The id of a row of `drift_results` about a whole window; None takes the newest.

    Raises:
        NotFoundError: The model was never watched, or has no such window.
    """
    watched = watching.get(model)
    if watched is None:
        raise NotFoundError(
            f"'{model}' was not watched yet.", remedy="Run `tidemill watch --once`."
        )
    row = find_window(watching, model, window)
    verdict = watched.verdict or {}
    parts = {
        "title": _text(f"{model}, version {row['version'] if row else watched.version}"),
        "made": _moment(time.time()),
        "state": _text(verdict.get("state", "unknown")),
        "colour": COLOURS.get(str(verdict.get("state")), "act"),
        "summary": _text(verdict.get("summary", "")),
        "why": _text(verdict.get("why", "")),
        "alarms": _alarms(verdict.get("alarms") or {}),
        "moved": _moved(row),
        "metric": _metric(watching, model),
        "decisions": _decisions(triggers.page(model=model, limit=TRIGGERS).items),
    }
    page = PAGE.read_text(encoding="utf-8")
    for name, value in parts.items():
        page = page.replace(f"{{{{{name}}}}}", value)
    return page


def find_window(
    watching: MonitoringResults, model: str, window: int | None
) -> dict[str, Any] | None:
    """The row of a checked window: the one of that id, or the newest; None where there is none.

    Raises:
        NotFoundError: The model has no window of that id.
    """
    cursor = None if window is None else str(window + 1)
    found = watching.results(model=model, test="window", limit=1, cursor=cursor).items
    if window is not None and (not found or found[0]["id"] != window):
        raise NotFoundError(f"'{model}' has no checked window {window}.", field="window")
    return found[0] if found else None


def _moved(row: Mapping[str, Any] | None) -> str:
    """The window side by side with training, and its features by effect."""
    if row is None:
        return "<p>No window was checked yet: too few predictions came.</p>"
    report = msgspec.convert(row["details"]["report"], DriftReport)
    span = f"{_moment(row['window_start'])} to {_moment(row['window_end'])}"
    text = f"<p>Window {row['id']}: {row['rows']:,} predictions, {span}.</p>"
    if not report.enough:
        return text + f"<p>{_text(report.summary)}</p>"
    picture = _image(plot_drift(report, ""), "Distributions, training and window")
    return text + picture + _features(report)


def _features(report: DriftReport) -> str:
    extra = [part for part in (report.output, report.confidence) if part is not None]
    rows = [_feature(f) for f in sorted([*report.features, *extra], key=lambda f: -f.effect)]
    joint = report.multivariate
    if joint is not None:
        said = "yes" if joint.moved else "no"
        separated = [f"AUC {joint.auc:.3f}", "classifier", f"{joint.p_adjusted:.2g}"]
        cells = ["all features together", *separated, "", said]
        rows.append((cells, joint.moved))
    head = ["", "share of rows that moved", "strongest check", "p, corrected", "missing", "alarm"]
    return _table(head, rows)


def _feature(found: FeatureDrift) -> tuple[list[str], bool]:
    cells = [
        found.name,
        f"{found.effect:.1%}",
        found.test,
        f"{found.p_adjusted:.2g}",
        f"{found.missing_rate:.1%}",
        "yes" if found.drifted else "no",
    ]
    return cells, found.drifted


def _metric(watching: MonitoringResults, model: str) -> str:
    """The live metric over time with its intervals, and the estimates without labels."""
    rows = watching.results(model=model, test="decay", limit=WINDOWS).items[::-1]
    reports = [msgspec.convert(row["details"]["report"], DecayReport) for row in rows]
    text = "<p>No labelled window was checked yet.</p>"
    if reports:
        metric = reports[-1].metric
        kept = [(r, d) for r, d in zip(rows, reports, strict=True) if d.metric == metric]
        times = [row["window_end"] for row, _ in kept]
        figure = plot_live_metric(
            times, [d for _, d in kept], f"{metric} of each labelled window", metric
        )
        text = _image(figure, f"{metric} over time") + f"<p>{_text(reports[-1].summary)}</p>"
    guesses = watching.results(model=model, test="estimate", limit=1).items
    if guesses:
        text += f"<p>{_text(guesses[0]['details']['report']['summary'])}</p>"
    return text


def _decisions(found: Sequence[Trigger]) -> str:
    if not found:
        return "<p>No trigger was opened yet.</p>"
    rows = [
        (
            [
                _moment(t.time), f"version {t.version or '?'}", t.cause, t.state,
                t.reason or "", _outcome(t),
            ],
            t.closed is None,
        )
        for t in found
    ]  # fmt: skip
    return _table(["opened", "about", "cause", "state", "why", "what came of it"], rows)


def _outcome(trigger: Trigger) -> str:
    if trigger.closed is None:
        return f"job {trigger.job_id}" if trigger.job_id else ""
    evidence = trigger.evidence or {}
    contest, gate = evidence.get("contest") or {}, evidence.get("gate") or {}
    words = [contest.get("reason"), *(gate.get("reasons") or []), evidence.get("cleared"),
             evidence.get("dismissed_because"), _problem(evidence.get("error"))]  # fmt: skip
    said = " ".join(str(word) for word in words if word)
    return f"{_moment(trigger.closed)}: {said}" if said else _moment(trigger.closed)


def _problem(error: Any) -> str | None:
    return str(error.get("detail")) if isinstance(error, Mapping) else error


def _alarms(alarms: Mapping[str, str]) -> str:
    items = "".join(f"<li><b>{_text(c)}</b>: {_text(why)}</li>" for c, why in alarms.items())
    return f"<ul>{items}</ul>" if items else "<p>No alarm is raised.</p>"


def _table(head: Iterable[str], rows: Iterable[tuple[list[str], bool]]) -> str:
    heads = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    body = "".join(
        ("<tr class='hot'>" if hot else "<tr>")
        + "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        + "</tr>"
        for cells, hot in rows
    )
    inner = f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody>"
    return f"<div class='wide'><table>{inner}</table></div>"


def _image(figure: Figure, words: str) -> str:
    held = io.BytesIO()
    figure.savefig(held, format="svg")
    data = base64.b64encode(held.getvalue()).decode()
    return f"<img alt='{_text(words)}' src='data:image/svg+xml;base64,{data}'>"


def _text(value: Any) -> str:
    # Braces too: a name in braces must not be taken for a place in the page.
    escaped = html.escape(str(value), quote=True)
    return escaped.replace("{", "&#123;").replace("}", "&#125;")


def _moment(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))

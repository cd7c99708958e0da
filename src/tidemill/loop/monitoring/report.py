"""The monitoring report of a model: drift, performance and decisions, as one HTML page.

It is made from what checks stored in the database, so it can be made after the rows are gone.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from matplotlib.figure import Figure

from tidemill.errors import NotFoundError
from tidemill.loop.html_report import HtmlReport
from tidemill.steps.decay.check import DecayReport
from tidemill.steps.drift.check import DriftReport, FeatureDrift
from tidemill.steps.plots.drift import plot_drift
from tidemill.steps.plots.timelines import plot_live_metric
from tidemill.stores.monitoring.results import MonitoringResults
from tidemill.stores.monitoring.triggers import Trigger, Triggers

WINDOWS = 200
TRIGGERS = 25
COLOURS = {"steady": "good", "unknown": "plain", "data moved": "look"}
FEATURE_COLUMNS = (
    "", "share of rows that moved", "strongest test", "p, corrected", "missing", "alarm",
)  # fmt: skip


def write_report(
    results: MonitoringResults,
    triggers: Triggers,
    model: str,
    path: Path,
    window: int | None = None,
) -> Path:
    """Write the page to a file; arguments and errors as of `make_report`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(make_report(results, triggers, model, window), encoding="utf-8")
    return path


def make_report(
    results: MonitoringResults, triggers: Triggers, model: str, window: int | None = None
) -> str:
    """Make the page, as HTML that loads nothing from elsewhere.

    Args:
        window: The id of a row of `drift_results` about a whole window; None takes the newest.

    Raises:
        NotFoundError: The model was never checked, or has no such window.
    """
    monitored = results.get(model)
    if monitored is None:
        raise NotFoundError(
            f"'{model}' has not been checked yet.", remedy="Run `tidemill watch --once`."
        )
    row = find_window(results, model, window)
    verdict = monitored.verdict or {}
    report = HtmlReport(f"{model}, version {row['version'] if row else monitored.version}")
    report.paragraph(f"Made {_moment(time.time())}.", faint=True)
    state = str(verdict.get("state", "unknown"))
    texts = [str(verdict.get("summary", "")), f"Decision: {verdict.get('why', '')}"]
    report.verdict(state, texts, COLOURS.get(state, "act"))
    alarms: Mapping[str, str] = verdict.get("alarms") or {}
    if alarms:
        report.definitions(alarms)
    else:
        report.paragraph("No alarm is raised.")
    report.heading("Live inputs and outputs compared with training")
    _add_drift(report, row)
    report.heading("Performance on labelled rows")
    _add_performance(report, results, model)
    report.heading("Triggers")
    _add_triggers(report, triggers.page(model=model, limit=TRIGGERS).items)
    return report.render()


def find_window(
    results: MonitoringResults, model: str, window: int | None
) -> dict[str, Any] | None:
    """Return the row of a checked window: of that id, or the newest; None where there is none.

    Raises:
        NotFoundError: The model has no window of that id.
    """
    cursor = None if window is None else str(window + 1)
    found = results.results(model=model, test="window", limit=1, cursor=cursor).items
    if window is not None and (not found or found[0]["id"] != window):
        raise NotFoundError(f"'{model}' has no checked window {window}.", field="window")
    return found[0] if found else None


def _add_drift(report: HtmlReport, row: Mapping[str, Any] | None) -> None:
    """The distributions of training and window, and the features by effect."""
    if row is None:
        report.paragraph("No window was checked yet: too few predictions have arrived.")
        return
    drift = msgspec.convert(row["details"]["report"], DriftReport)
    span = f"{_moment(row['window_start'])} to {_moment(row['window_end'])}"
    report.paragraph(f"Window {row['id']}: {row['rows']:,} predictions, {span}.")
    if not drift.enough:
        report.paragraph(drift.summary)
        return
    _add_figure(report, plot_drift(drift, ""), "Distributions, training and window")
    extra = [part for part in (drift.output, drift.confidence) if part is not None]
    features = sorted([*drift.features, *extra], key=lambda f: -f.effect)
    rows, hot = [_table_cells(feature) for feature in features], [f.drifted for f in features]
    joint = drift.multivariate
    if joint is not None:
        rows.append([
            "all features together", f"AUC {joint.auc:.3f}", "classifier",
            f"{joint.p_adjusted:.2g}", "", "yes" if joint.moved else "no",
        ])  # fmt: skip
        hot.append(joint.moved)
    report.table(FEATURE_COLUMNS, rows, hot)


def _table_cells(found: FeatureDrift) -> list[str]:
    return [
        found.name,
        f"{found.effect:.1%}",
        found.test,
        f"{found.p_adjusted:.2g}",
        f"{found.missing_rate:.1%}",
        "yes" if found.drifted else "no",
    ]


def _add_performance(report: HtmlReport, results: MonitoringResults, model: str) -> None:
    """The live metric over time with its intervals, and the newest estimate without labels."""
    rows = results.results(model=model, test="decay", limit=WINDOWS).items[::-1]
    decays = [msgspec.convert(row["details"]["report"], DecayReport) for row in rows]
    if decays:
        metric = decays[-1].metric
        same = [(r, d) for r, d in zip(rows, decays, strict=True) if d.metric == metric]
        times = [row["window_end"] for row, _ in same]
        title = f"{metric} of each labelled window"
        figure = plot_live_metric(times, [decay for _, decay in same], title, metric)
        _add_figure(report, figure, f"{metric} over time")
        report.paragraph(decays[-1].summary)
    else:
        report.paragraph("No labelled window has been checked yet.")
    estimates = results.results(model=model, test="estimate", limit=1).items
    if estimates:
        report.paragraph(estimates[0]["details"]["report"]["summary"])


def _add_triggers(report: HtmlReport, found: Sequence[Trigger]) -> None:
    if not found:
        report.paragraph("No trigger has been opened yet.")
        return
    rows = [
        [
            _moment(t.time), f"version {t.version or '?'}", t.cause, t.state, t.reason or "",
            _outcome(t),
        ]
        for t in found
    ]  # fmt: skip
    head = ["opened", "about", "cause", "state", "why", "outcome"]
    report.table(head, rows, [t.closed is None for t in found])


def _outcome(trigger: Trigger) -> str:
    if trigger.closed is None:
        return f"job {trigger.job_id}" if trigger.job_id else ""
    evidence = trigger.evidence or {}
    contest, gate = evidence.get("contest") or {}, evidence.get("gate") or {}
    words = [contest.get("reason"), *(gate.get("reasons") or []), evidence.get("cleared"),
             evidence.get("dismissed_because"), _problem(evidence.get("error"))]  # fmt: skip
    text = " ".join(str(word) for word in words if word)
    return f"{_moment(trigger.closed)}: {text}" if text else _moment(trigger.closed)


def _problem(error: Any) -> str | None:
    return str(error.get("detail")) if isinstance(error, Mapping) else error


def _add_figure(report: HtmlReport, figure: Figure, alt: str) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    report.image(buffer.getvalue(), "image/svg+xml", alt)


def _moment(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))

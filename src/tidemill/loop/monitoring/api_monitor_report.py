"""Reports of the API monitor, in a module of their own as importing matplotlib takes seconds.

reports/api_monitoring_report.png     latency and failures over time
reports/monitoring_summary.json       availability, latency, outages, versions seen
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.steps.plots.style import to_png
from tidemill.steps.plots.timelines import ProbeSeries, plot_api_monitor
from tidemill.stores.monitoring.api_probes import Probe

PICTURE, SUMMARY = "api_monitoring_report.png", "monitoring_summary.json"
MOST_ERRORS = 5


def summarise(url: str, probes: Sequence[Probe], versions: dict[str, list[str]]) -> dict[str, Any]:
    """Summarise probes as a JSON object."""
    kinds = list(dict.fromkeys(name_of(url, probe) for probe in probes))
    by_kind = {kind: [p for p in probes if name_of(url, p) == kind] for kind in kinds}
    return {
        "url": url,
        "started": _moment(probes[0].time) if probes else None,
        "ended": _moment(probes[-1].time) if probes else None,
        "healthy": bool(probes) and all(probe.healthy for probe in probes),
        "availability": _share(probes),
        "probes": {kind: _figures(found) for kind, found in by_kind.items()},
        "outages": [o for kind, found in by_kind.items() for o in _outages(kind, found)],
        "versions": versions,
    }


def write_reports(
    folder: Path, url: str, probes: Sequence[Probe], versions: dict[str, list[str]]
) -> dict[str, Any]:
    """Write the picture and the summary; return the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarise(url, probes, versions)
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
    lines: dict[str, ProbeSeries] = {}
    for kind in summary["probes"]:
        found = [probe for probe in probes if name_of(url, probe) == kind]
        lines[kind] = ProbeSeries(
            times=np.array([probe.time for probe in found]),
            milliseconds=np.array([probe.milliseconds or np.nan for probe in found], float),
            healthy=np.array([probe.healthy for probe in found]),
        )
    title = f"{url}: {_percent(summary['availability'])} of {len(probes)} probes were healthy"
    (folder / PICTURE).write_bytes(to_png(plot_api_monitor(lines, title)))
    return summary


def name_of(url: str, probe: Probe) -> str:
    """Return a probe's name in reports; predictions have the model's name."""
    if probe.probe != "predict":
        return probe.probe
    return f"predict {probe.target.removeprefix(f'{url}/models/').removesuffix('/predict')}"


def _figures(probes: Sequence[Probe]) -> dict[str, Any]:
    spent = [p.milliseconds for p in probes if p.healthy and p.milliseconds is not None]
    quantiles = (
        np.quantile(spent, [0.5, 0.95, 0.99, 1.0]).round(3).tolist() if spent else [None] * 4
    )
    errors = Counter(probe.error for probe in probes if probe.error is not None)
    return {
        "probes": len(probes),
        "healthy": sum(probe.healthy for probe in probes),
        "availability": _share(probes),
        "milliseconds": dict(zip(("median", "p95", "p99", "max"), quantiles, strict=True)),
        "statuses": dict(Counter(str(probe.status or "no answer") for probe in probes)),
        "errors": dict(errors.most_common(MOST_ERRORS)),
    }


def _outages(kind: str, probes: Sequence[Probe]) -> list[dict[str, Any]]:
    """Runs of failures: from the first failure to the next success, or the last probe."""
    found: list[dict[str, Any]] = []
    first: Probe | None = None
    for probe in probes:
        if not probe.healthy:
            first = first or probe
        elif first is not None:
            found.append(_outage(kind, first, probe.time, over=True))
            first = None
    if first is not None:
        found.append(_outage(kind, first, probes[-1].time, over=False))
    return found


def _outage(kind: str, first: Probe, end: float, *, over: bool) -> dict[str, Any]:
    return {
        "probe": kind,
        "from": _moment(first.time),
        "to": _moment(end) if over else None,
        "seconds": round(end - first.time, 3),
        "error": first.error,
    }


def _share(probes: Sequence[Probe]) -> float | None:
    return sum(probe.healthy for probe in probes) / len(probes) if probes else None


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.2f}%"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

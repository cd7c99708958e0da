"""What monitoring found: features by how far they moved, the live metric, and the triggers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from tidemill.console import facts, watching
from tidemill.console.charts import Point
from tidemill.console.visit import View, Visit
from tidemill.stores import statistics
from tidemill.stores.tables import drift_results

SHOWN_FEATURES = 60
HISTORY = 120


def overview(visit: Visit) -> View:
    """Every model's last verdict."""
    served = facts.served(visit).value or {}
    registered = facts.models(visit)
    names = sorted({m.name for m in registered.value or ()} | set(served))
    rows = [
        {
            "name": name,
            "stations": watching.stations(visit, name),
            "verdict": watching.last_verdict(visit, name),
            "trigger": watching.newest_trigger(visit, name),
            "predictions": watching.count(visit, name),
        }
        for name in names
    ]
    return View("monitored.html", {"rows": rows, "registered": registered})


def monitoring(visit: Visit) -> View:
    """One model."""
    name = visit.path["name"]
    row = watching.last_verdict(visit, name)
    windows = watching.drift_history(visit, name)
    return View(
        "monitoring.html",
        {
            "name": name,
            "watch": row,
            "verdict": (row or {}).get("verdict") or {},
            "stations": watching.stations(visit, name),
            "predictions": watching.count(visit, name),
            "window": windows[-1] if windows else None,
            "windows": [Point(w["time"], w["effect"] or 0.0, alarm=w["drifted"]) for w in windows],
            "features": _features(visit, name, windows[-1] if windows else None),
            "live": _live(visit, name),
            "triggers": watching.triggers(visit).page(model=name, limit=20).items,
        },
    )


def _features(visit: Visit, model: str, window: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The last window's features, the one that moved farthest first."""
    if window is None:
        return []
    table = drift_results.c
    query = (
        select(drift_results)
        .where(table.model == model, table.time == window["time"], table.feature.is_not(None))
        .order_by(table.effect.desc())
        .limit(SHOWN_FEATURES)
    )
    return visit.desk.platform.database.rows(query)


def _live(visit: Visit, model: str) -> list[dict[str, Any]]:
    """The measured and the estimated metric over time, a curve for each."""
    curves = []
    for source in ("live", "estimate"):
        rows = statistics.model_values(
            visit.desk.platform.database, model=model, source=source, limit=HISTORY
        ).items[::-1]
        for metric in dict.fromkeys(row["metric"] for row in rows):
            own = [row for row in rows if row["metric"] == metric]
            points = [Point(r["time"], r["value"], r["low"], r["high"]) for r in own]
            curves.append({"source": source, "metric": metric, "points": points, "last": own[-1]})
    return curves

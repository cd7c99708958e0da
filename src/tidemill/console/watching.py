"""What monitoring has found of a model, in short; all of it is in Tidemill's own database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from tidemill.console.visit import Visit
from tidemill.stores.tables import drift_results, predictions, watches
from tidemill.stores.triggers import Trigger, Triggers

TIMED_SECONDS = 900.0
TIMED_ROWS = 2_000
HISTORY = 60


@dataclass(frozen=True)
class Station:
    """One part of a model's loop. `mark` is a name out of `render.MARKS`."""

    name: str
    mark: str
    words: str
    link: str | None = None


@dataclass(frozen=True)
class Timing:
    """How long requests for one model took lately, in seconds."""

    p50: float
    p99: float
    rows: int


def triggers(visit: Visit) -> Triggers:
    """The recorded triggers."""
    return Triggers(visit.desk.platform.database)


def newest_trigger(visit: Visit, model: str) -> Trigger | None:
    """The model's newest trigger of either kind."""
    found = triggers(visit).page(model=model, limit=1).items
    return found[0] if found else None


def last_verdict(visit: Visit, model: str) -> dict[str, Any] | None:
    """What the last look at the model came to; None where nobody has looked."""
    query = select(watches).where(watches.c.model == model)
    found = visit.desk.platform.database.rows(query)
    return found[0] if found else None


def stations(visit: Visit, model: str) -> tuple[Station, Station]:
    """The stations of drift and of decay."""
    row = last_verdict(visit, model)
    link = f"/console/models/{model}/monitoring"
    if row is None:
        counted = count(visit, model)
        words = f"{counted} predictions, none checked yet" if counted else "no predictions yet"
        return Station("Drift", "idle", words, link), Station("Decay", "idle", "no check yet", link)
    verdict: Mapping[str, Any] = row["verdict"] or {}
    return _drift(verdict, link), _decay(verdict, link)


def count(visit: Visit, model: str) -> int:
    """How many predictions of a model are stored; counted at most every ten seconds."""
    query = select(func.count()).select_from(predictions).where(predictions.c.model == model)
    database = visit.desk.platform.database
    ask = lambda: int(database.rows(query)[0]["count_1"])  # noqa: E731
    return visit.desk.recent.get(("count", model), ask, fresh=10.0).value or 0


def timing(visit: Visit, model: str) -> Timing | None:
    """The median and 99th percentile of the newest answers of the last quarter of an hour."""
    return visit.desk.recent.get(("timing", model), lambda: _timing(visit, model), fresh=5.0).value


def _timing(visit: Visit, model: str) -> Timing | None:
    database = visit.desk.platform.database
    table = predictions.c
    query = (
        select(table.milliseconds)
        .where(table.model == model, table.time >= database.now() - TIMED_SECONDS)
        .where(table.milliseconds.is_not(None))
        .order_by(table.time.desc())
        .limit(TIMED_ROWS)
    )
    took = sorted(row["milliseconds"] / 1000 for row in database.rows(query))
    if not took:
        return None
    return Timing(took[len(took) // 2], took[min(len(took) - 1, len(took) * 99 // 100)], len(took))


def _drift(verdict: Mapping[str, Any], link: str) -> Station:
    moved = verdict.get("moved")
    words = {None: "too few rows", True: "data moved", False: "as in training"}[moved]
    return Station("Drift", {None: "idle", True: "bad", False: "good"}[moved], words, link)


def _decay(verdict: Mapping[str, Any], link: str) -> Station:
    hurt = verdict.get("hurt")
    basis = {"labels": "by labels", "confidences": "by estimate"}.get(verdict.get("basis", ""), "")
    words = {None: "cannot tell yet", True: "model is worse", False: "holds"}[hurt]
    mark = {None: "idle", True: "bad", False: "good"}[hurt]
    return Station("Decay", mark, f"{words} {basis}".strip() if hurt is not None else words, link)


def drift_history(visit: Visit, model: str) -> list[dict[str, Any]]:
    """The verdicts on whole windows, oldest first."""
    table = drift_results.c
    query = (
        select(drift_results)
        .where(table.model == model, table.feature.is_(None))
        .order_by(table.id.desc())
        .limit(HISTORY)
    )
    return visit.desk.platform.database.rows(query)[::-1]

"""A check's results as table rows, and as the verdict shown in the console, API and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tidemill.loop.monitoring.state import MonitoringCheck, WindowSpan
from tidemill.steps.decay.cbpe import AccuracyEstimate
from tidemill.steps.decay.check import DecayReport, assess
from tidemill.steps.drift.check import DriftReport, FeatureDrift
from tidemill.steps.retraining.trigger_policy import TriggerDecision

Row = dict[str, Any]


def results_of(check: MonitoringCheck, decision: TriggerDecision) -> list[Row]:
    """Make rows of `drift_results`: one for each test with its report, and one for each feature."""
    rows = []
    decided = {
        "why": decision.why,
        "fired": [f"{f.cause}{'' if f.retrains else ' (report)'}" for f in decision.proposals],
    }
    if check.drift is not None and check.drift_span is not None:
        rows += _drift_rows(check.drift, check.drift_span, decided)
    if check.decay is not None and check.decay_span is not None:
        rows.append(_decay_row(check.decay, check.decay_span, decided))
    if check.estimate is not None and check.drift_span is not None:
        rows.append(_estimate_row(check.estimate, check.drift_span, decided))
    if check.sequential is not None:
        details = {**decided, "report": {"summary": check.sequential}}
        rows.append({"test": "sequential", "drifted": True, "rows": 0, "details": details})
    return rows


def metrics_of(check: MonitoringCheck) -> list[Row]:
    """Make rows of `model_metrics`: the live metric, and the estimated accuracy."""
    rows = []
    if check.decay is not None and check.decay.value is not None:
        rows.append(_metric(check.decay.metric, check.decay, "live"))
    if check.estimate is not None:
        rows.append(_metric("accuracy", check.estimate, "estimate"))
    return rows


def verdict_of(
    check: MonitoringCheck,
    decision: TriggerDecision,
    metric: str,
    now: float,
    last: Mapping[str, Any] | None,
) -> Row:
    """Make the model's current verdict: the newest report of each test, and the decision.

    Args:
        last: The previous verdict on the same version, for tests that were not due.
    """
    kept = dict(last or {})
    parts: Row = {name: kept.get(name) for name in ("drift", "live", "estimate")}
    scores = dict(kept.get("scores") or {})
    if check.drift is not None:
        parts["drift"] = _drift_part(check.drift, check.drift_span, now)
        scores = {f.name: f.effect for f in _all(check.drift)} or scores
    if check.decay is not None:
        parts["live"] = {**msgspec.to_builtins(check.decay), **_when(check.decay_span, now)}
    if check.estimate is not None:
        parts["estimate"] = {**msgspec.to_builtins(check.estimate), **_when(check.drift_span, now)}
    assessment = assess(
        _read(parts["drift"], DriftReport), _read(parts["live"], DecayReport),
        _read(parts["estimate"], AccuracyEstimate),
    )  # fmt: skip
    alarms = {c: a.reason for c, a in decision.state.alarms.items() if a.raised}
    state = assessment.state
    if "decay" in alarms and not assessment.degraded:
        state = "data moved and model degraded" if assessment.moved else "model degraded"
    return {
        **parts,
        "time": now,
        "checked": now if check.checked else kept.get("checked"),
        "metric": metric,
        "state": state,
        "basis": assessment.basis,
        "summary": assessment.summary or "Nothing was checked yet: too few rows have arrived.",
        "alarms": alarms,
        "why": decision.why,
        "scores": scores,
    }


def _drift_part(report: DriftReport, span: WindowSpan | None, now: float) -> Row:
    short = msgspec.structs.replace(report, features=(), output=None, confidence=None)
    built: Row = msgspec.to_builtins(short)
    return {**built, "drifted": list(report.drifted), **_when(span, now)}


def _read(part: Mapping[str, Any] | None, kind: type[Any]) -> Any:
    return None if part is None else msgspec.convert(part, kind)


def _when(span: WindowSpan | None, now: float) -> Row:
    window = {} if span is None else {"window_start": span.start, "window_end": span.end}
    return {**window, "checked": now}


def _drift_rows(report: DriftReport, span: WindowSpan, decided: Row) -> list[Row]:
    whole: Row = {
        "test": "window",
        "drifted": report.moved,
        "rows": report.rows,
        "details": {**decided, "report": msgspec.to_builtins(report)},
        **_bounds(span),
    }
    effects = [feature.effect for feature in _all(report)]
    whole["effect"] = max(effects, default=None)
    rows = [whole, *(_feature_row(f, report.rows, span) for f in _all(report))]
    joint = report.multivariate
    if joint is not None:
        rows.append(
            {
                "feature": "(all features together)",
                "test": "classifier",
                "statistic": joint.auc,
                "p_value": joint.p_value,
                "effect": max(0.0, 2 * joint.auc - 1),
                "drifted": joint.moved,
                "rows": report.rows,
                **_bounds(span),
            }
        )
    return rows


def _feature_row(found: FeatureDrift, rows: int, span: WindowSpan) -> Row:
    return {
        "feature": found.name[:255],
        "test": found.test[:64],
        "statistic": found.statistic,
        "p_value": found.p_value,
        "effect": found.effect,
        "drifted": found.drifted,
        "rows": rows,
        "details": {
            "detail": found.detail,
            "p_adjusted": found.p_adjusted,
            "missing_rate": found.missing_rate,
            "unseen": found.unseen,
            "out_of_range": found.out_of_range,
        },
        **_bounds(span),
    }


def _all(report: DriftReport) -> list[FeatureDrift]:
    extra = [part for part in (report.output, report.confidence) if part is not None]
    return [*report.features, *extra]


def _decay_row(report: DecayReport, span: WindowSpan, decided: Row) -> Row:
    return {
        "test": "decay",
        "statistic": report.value,
        "p_value": report.p_value,
        "effect": report.loss,
        "drifted": report.degraded,
        "rows": report.rows,
        "details": {**decided, "report": msgspec.to_builtins(report)},
        **_bounds(span),
    }


def _estimate_row(estimate: AccuracyEstimate, span: WindowSpan, decided: Row) -> Row:
    return {
        "test": "estimate",
        "statistic": estimate.value,
        "effect": estimate.reference - estimate.value,
        "drifted": estimate.degraded,
        "rows": estimate.rows,
        "details": {**decided, "report": msgspec.to_builtins(estimate)},
        **_bounds(span),
    }


def _bounds(span: WindowSpan) -> Row:
    return {"window_start": span.start, "window_end": span.end}


def _metric(name: str, found: DecayReport | AccuracyEstimate, source: str) -> Row:
    return {
        "metric": name,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "rows": found.rows,
        "source": source,
    }
